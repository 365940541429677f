"""Values, secrets, configuration and journal by themselves; golden values from states of the real CLI."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pulumi_embedded.deployment.targets import Targets
from pulumi_embedded.errors import EngineError
from pulumi_embedded.program.grpc_stubs import resource_pb2
from pulumi_embedded.program.monitor import goal_from_request
from pulumi_embedded.project import config_schema
from pulumi_embedded.project.config import ConfigValue, Project, StackConfig, find_project
from pulumi_embedded.project.secrets import Crypter, Passphrase
from pulumi_embedded.properties import values
from pulumi_embedded.properties.diffs import compare_properties
from pulumi_embedded.properties.values import UNKNOWN, Secret
from pulumi_embedded.state import journal, serialization
from pulumi_embedded.state.journal import StateRows
from pulumi_embedded.state.stores import FileLog

DATA = Path(__file__).parent / "data"
STATES = sorted(path.stem for path in DATA.glob("[0-9]-*.json"))
TOKEN = "canary-7f3a"

# Times of a shared machine say nothing.
settings.register_profile("engine", deadline=None, max_examples=60)
settings.load_profile("engine")


@pytest.fixture(scope="module")
def crypter() -> Crypter:
    salt = StackConfig(DATA / "Pulumi.dev.yaml").salt
    assert salt is not None
    made = Crypter(salt, Passphrase("fixture", "a test", "dev"))
    made.check()
    return made


def plain_values() -> st.SearchStrategy[Any]:
    numbers = st.integers(-(2**53), 2**53) | st.floats(allow_nan=False, allow_infinity=False).map(
        values.int_if_whole
    )
    leaves = st.none() | st.booleans() | numbers | st.text()
    return st.recursive(
        leaves, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4)
    )


def all_values() -> st.SearchStrategy[Any]:
    return st.recursive(
        plain_values() | st.just(UNKNOWN) | plain_values().map(Secret),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    ).filter(lambda value: values.UNKNOWN_TEXT not in str(value) and values.SIGNATURE not in str(value))


@given(st.dictionaries(st.text(), all_values(), max_size=4))
def test_values_survive_protobuf(properties: dict[str, Any]) -> None:
    there_and_back = values.from_struct(values.to_struct(properties, secrets=True))
    assert values.is_same(there_and_back, properties)
    bare = values.from_struct(values.to_struct(properties, secrets=False))
    assert values.is_same(bare, values.reveal_secrets(properties))
    assert not values.has_secret(bare)


@given(value=all_values().filter(lambda value: not values.has_unknown(value)))
def test_values_survive_the_state_file(crypter: Crypter, value: Any) -> None:
    stored = json.loads(json.dumps(serialization.value_to_json(value, crypter)))
    # A secret within a secret is stored within the one text.
    found = serialization.value_from_json(stored, crypter)
    assert values.is_same(values.reveal_secrets(found), values.reveal_secrets(value))
    assert values.has_secret(found) == values.has_secret(value)


@given(plain_values(), plain_values())
def test_compare_finds_differences(old: Any, new: Any) -> None:
    assert compare_properties({"p": old}, {"p": old}) == {}
    assert bool(compare_properties({"p": old}, {"p": new})) == (not values.is_same(old, new))


@given(text=st.text())
def test_encrypted_text_can_be_decrypted(crypter: Crypter, text: str) -> None:
    first, second = crypter.encrypt(text), crypter.encrypt(text)
    assert first != second
    assert crypter.decrypt(first) == crypter.decrypt(second) == text


def test_a_wrong_passphrase_and_a_damaged_secret_are_reported(crypter: Crypter) -> None:
    with pytest.raises(EngineError, match="incorrect passphrase for stack dev: the one from a test"):
        Crypter(crypter.salt, Passphrase("wrong", "a test", "dev")).check()
    with pytest.raises(EngineError, match="does not have the form"):
        Crypter("v2:x", Passphrase("fixture", "a test", "dev")).check()
    with pytest.raises(EngineError, match="could not be decrypted"):
        crypter.decrypt("v1:AAAA:AAAA")


@pytest.mark.parametrize("name", STATES)
def test_states_of_the_cli_are_read_and_written(crypter: Crypter, name: str) -> None:
    latest = json.loads((DATA / f"{name}.json").read_text())["checkpoint"]["latest"]
    assert serialization.find_state_error(latest.get("resources", [])) == ""
    loaded = serialization.load_state(latest, crypter)
    found = latest.get("resources", []) + [item["resource"] for item in latest.get("pending_operations", [])]
    resources = loaded.resources + [pending.resource for pending in loaded.pending]
    for item, resource in zip(found, resources, strict=True):
        item.pop("stackTrace", None)
        written = serialization.resource_to_json(resource, crypter)
        assert written == item  # secrets keep their text
        assert list(written) == list(item)


def test_secrets_of_the_cli_are_read(crypter: Crypter) -> None:
    latest = json.loads((DATA / "1-created.json").read_text())["checkpoint"]["latest"]
    kept = next(
        found for found in serialization.load_state(latest, crypter).resources if found.urn.endswith("::kept")
    )
    assert kept.inputs["text"].value == TOKEN
    assert kept.outputs["length"].value == len(TOKEN)


def test_scalars_are_read_as_the_cli_reads_them(tmp_path: Path, crypter: Crypter) -> None:
    (tmp_path / "Pulumi.yaml").write_text(
        "name: p\nruntime: python\nconfig:\n  p:object: {a: 1}\n  text: {type: string, default: d}\n  none: {type: string}\n"
    )
    (tmp_path / "Pulumi.dev.yaml").write_text(
        f"encryptionsalt: {crypter.salt}\n"
        "config:\n  p:yes: yes\n  p:time: 1:30\n  p:exp: 1e3\n  p:nothing: ~\n  p:date: 2020-01-02\n  p:true: true\n"
        "  p:float: 1.50\n  p:object: {b: [1, yes, 2.0]}\n  other:key: '5'\n  p:secret:\n"
        f"    secure: {crypter.encrypt('hush')}\n  p:deep:\n    - secure: {crypter.encrypt('inside')}\n"
    )
    project = find_project(tmp_path)
    found = StackConfig(tmp_path / "Pulumi.dev.yaml").values(project, crypter)
    assert {key: value.text for key, value in found.items()} == {
        "p:yes": "yes",
        "p:time": "1:30",
        "p:exp": "1000",
        "p:nothing": "",
        "p:date": "2020-01-02",
        "p:true": "true",
        "p:float": "1.5",
        "p:object": '{"b":[1,"yes",2]}',
        "p:text": "d",
        "other:key": "5",
        "p:secret": "hush",
        "p:deep": '["inside"]',
    }
    assert {key for key, value in found.items() if value.secret} == {"p:secret", "p:deep"}


@pytest.mark.parametrize(
    ("items", "said"),
    [
        ([{"urn": "a", "type": "t"}] * 2, "duplicate resource a (not marked for deletion)"),
        ([{"urn": "a", "type": "t"}, {"urn": "a", "type": "t", "delete": True}], ""),
        ([{"urn": "a", "type": "t", "parent": "b"}], "child resource a refers to missing parent b"),
        (
            [{"urn": "a", "type": "t", "deletedWith": "b"}],
            "resource a is specified as being deleted with b, which is missing",
        ),
        (
            [{"urn": "a", "type": "t", "propertyDependencies": {"k": ["b"]}}, {"urn": "b", "type": "t"}],
            "resource a's property dependency b (from property k) comes after it",
        ),
        ([{"urn": "a", "type": "t", "provider": "p::1"}], "resource a refers to unknown provider p::1"),
        ([{"urn": "a", "type": "t", "id": "1"}], "resource 'a' has 'custom false but non-empty ID"),
        ([{"urn": "a"}], "resource 'a' missing required 'type' field"),
        ([{"type": "t"}], "resource at index 0 missing required 'urn' field"),
    ],
)
def test_flaws_that_the_cli_would_reject(items: list[dict[str, Any]], said: str) -> None:
    assert serialization.find_state_error(items) == said


@pytest.mark.parametrize(
    ("pattern", "matches"),
    [
        ("urn:pulumi:dev::p::t::a[1]", True),
        ("urn:pulumi:dev::p::t::a?1]", False),
        ("**::a[1]", True),
        ("**a*", True),
        ("urn:*:dev::p::*::a[[]1]", False),
        ("urn:*:dev::p::*::*", True),
        ("urn:*::a[1]", False),  # one star is no more than a part
    ],
)
def test_targets_match_like_in_the_cli(pattern: str, matches: bool) -> None:
    assert Targets((pattern,)).includes("urn:pulumi:dev::p::t::a[1]") is matches


def timeouts_of(**timeouts: str) -> dict[str, float]:
    """The time-outs of a registration, in seconds."""
    timeouts_ = resource_pb2.RegisterResourceRequest.CustomTimeouts(**timeouts)
    return goal_from_request(
        resource_pb2.RegisterResourceRequest(customTimeouts=timeouts_), "/"
    ).custom_timeouts


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("5m", 300), ("1h30m", 5400), ("500ms", 0.5), ("100us", 0.0001), ("1.5s", 1.5), ("0", None)],
)
def test_timeouts_are_read_as_go_reads_them(text: str, seconds: float | None) -> None:
    assert timeouts_of(create=text) == ({} if seconds is None else {"create": seconds})


@pytest.mark.parametrize("text", ["5", "m", "5 m", "5x", "1.2.3s"])
def test_an_invalid_timeout_is_reported(text: str) -> None:
    with pytest.raises(EngineError, match="unable to parse customTimeout Value"):
        timeouts_of(delete=text)


DECLARED = {
    "need": {"type": "string"},
    "count": {"type": "integer", "default": 3},
    "on": {"type": "boolean", "default": True},
    "key": {"type": "string", "default": "k", "secret": True},
    "list": {"type": "array", "items": {"type": "integer"}, "default": [1]},
    "plain": "a value",
    "other:key": {"value": 1},
}
GOOD = {"need": "x", "key": Secret("k")}


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (GOOD, ""),
        ({"key": Secret("k")}, "Stack 'dev' is missing configuration value 'need'"),
        ({**GOOD, "count": "abc"}, "Stack 'dev' with configuration key 'count' must be of type 'integer'"),
        ({**GOOD, "count": "12", "on": "false"}, ""),
        ({**GOOD, "on": "yes"}, "'on' must be of type 'boolean'"),
        ({**GOOD, "list": '["x"]'}, "'list' must be of type 'array<integer>'"),
        ({"need": "x"}, "Stack 'dev' with configuration key 'key' must be encrypted as it's secret"),
    ],
)
def test_configuration_is_checked_against_its_declaration(given: dict[str, Any], said: str) -> None:
    project = Project("p", Path("Pulumi.yaml"), config=DECLARED)
    defaults = {
        "p:key": "k",
        "p:count": "3",
        "p:on": "true",
        "p:list": "[1]",
        "p:plain": "a value",
        "other:key": "1",
    }
    texts = {key: ConfigValue(text, is_object=text.startswith("[")) for key, text in defaults.items()}
    for key, value in given.items():
        text = value.value if isinstance(value, Secret) else value
        texts[f"p:{key}"] = ConfigValue(text, isinstance(value, Secret), text.startswith("["))
    if said:
        with pytest.raises(EngineError, match=re.escape(said)):
            config_schema.check_config("dev", project, texts)
    else:
        config_schema.check_config("dev", project, texts)


BEFORE, AFTER = journal.checkpoint_digest(b"before"), journal.checkpoint_digest(b"after")


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """The file of a journal."""
    return tmp_path / "journal.jsonl"


def test_a_journal_is_applied_up_to_its_last_complete_line(file: Path) -> None:
    deployment = {"resources": [{"urn": "a", "type": "t"}, {"urn": "b", "type": "t", "dependencies": ["a"]}]}
    rows = StateRows(old=dict(enumerate(deployment["resources"])))
    log = journal.Journal(FileLog(file), BEFORE, rows)
    log.flush(log.append([["begin", 9, "creating", {"urn": "c"}]]))
    log.flush(
        log.append([["end", 9], ["put", 10, {"urn": "c", "type": "t"}], ["drop", 0], ["alias", "a", "c"]])
    )
    with file.open("ab") as end:
        end.write(b'[["drop", 1')
    found = journal.read_leftover(FileLog(file), BEFORE, json.loads(json.dumps(deployment)))
    assert found is not None
    assert [item["urn"] for item in found.rows.resources()] == ["c", "b"]
    assert found.rows.old[1]["dependencies"] == ["c"]
    assert found.rows.pending == {}
    with pytest.raises(ValueError, match="changed"):
        journal.read_leftover(FileLog(file), journal.checkpoint_digest(b"another"), deployment)


def test_a_folded_journal_adds_nothing(file: Path) -> None:
    log = journal.Journal(FileLog(file), BEFORE, StateRows())
    log.append([["put", 1, {"urn": "c"}]])
    log.fold_into(AFTER)
    assert journal.read_leftover(FileLog(file), AFTER, {"resources": [{"urn": "c"}]}) is None
    found = journal.read_leftover(FileLog(file), BEFORE, {})
    assert found is not None
    assert found.steps == 1


def test_steps_after_a_fold_that_was_reported_as_failed_are_kept(file: Path) -> None:
    """The store wrote the checkpoint and then failed: the run goes on in the same journal."""
    resources = [{"urn": "a", "type": "t"}, {"urn": "b", "type": "t"}]
    log = journal.Journal(FileLog(file), BEFORE, StateRows(old=dict(enumerate(resources))))
    log.append([["put", 10, {"urn": "c", "type": "t"}], ["drop", 0], ["begin", 11, "creating", {"urn": "d"}]])
    log.fold_into(AFTER)
    log.flush(log.append([["end", 11], ["put", 12, {"urn": "d", "type": "t"}]]))
    deployment = {
        "resources": [{"urn": "c", "type": "t"}, {"urn": "b", "type": "t"}],
        "pending_operations": [{"resource": {"urn": "d"}, "type": "creating"}],
    }
    found = journal.read_leftover(FileLog(file), AFTER, deployment)
    assert found is not None
    assert [item["urn"] for item in found.rows.resources()] == ["c", "d", "b"]
    assert (found.steps, found.rows.pending) == (1, {})


class FailingLog(FileLog):
    """Fails once."""

    failed = False

    def append(self, lines: bytes) -> None:
        if not self.failed:
            self.failed = True
            raise OSError("time-out")
        super().append(lines)


def test_a_line_that_failed_is_written_again(file: Path) -> None:
    log = journal.Journal(FailingLog(file), BEFORE, StateRows())
    first, second = (log.append([["begin", op, "creating", {"urn": str(op)}]]) for op in (1, 2))
    with pytest.raises(OSError, match="time-out"):
        log.flush(first)
    log.flush(second)
    found = journal.read_leftover(FileLog(file), BEFORE, {})
    assert found is not None
    assert sorted(found.rows.pending) == [1, 2]


@pytest.mark.parametrize("place", [0, 1, 2])
def test_a_journal_damaged_before_its_end_is_reported(file: Path, place: int) -> None:
    log = journal.Journal(FileLog(file), BEFORE, StateRows())
    for op in (1, 2, 3):
        log.flush(log.append([["begin", op, "creating", {"urn": str(op)}]]))
    lines = file.read_bytes().split(b"\n")
    lines[place] = b"\0" * len(lines[place])
    file.write_bytes(b"\n".join(lines))
    with pytest.raises(ValueError, match="damaged"):
        journal.read_leftover(FileLog(file), BEFORE, {})


def test_a_fold_after_a_truncated_line_counts(file: Path) -> None:
    log = journal.Journal(FileLog(file), BEFORE, StateRows())
    log.flush(log.append([["put", 1, {"urn": "c"}]]))
    with file.open("ab") as end:
        end.write(b'[["put", 2')
    journal.record_fold(FileLog(file), AFTER)
    assert journal.read_leftover(FileLog(file), AFTER, {"resources": [{"urn": "c"}]}) is None


def test_paths_of_a_project(tmp_path: Path) -> None:
    project = Project("p", tmp_path / "Pulumi.yaml", main="src", config_folder="config")
    (tmp_path / "src").mkdir()
    assert project.program_file() == tmp_path / "src" / "__main__.py"
    assert project.stack_config_file("dev") == tmp_path / "config" / "Pulumi.dev.yaml"


def test_a_key_that_a_stack_file_has_twice_is_named_with_its_line(tmp_path: Path) -> None:
    file = tmp_path / "Pulumi.dev.yaml"
    file.write_text("config:\n  p:cloud: local\n  p:cloud: salad\n", encoding="utf-8")
    with pytest.raises(EngineError, match=r"^Pulumi\.dev\.yaml:3: p:cloud occurs a second time; delete one$"):
        StackConfig(file)
