"""A new train.yml is the ai-toolkit example for 24 GB with five changes of the recipe; reading any train.yml."""

import errno
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flux_training.training.finding import Problem
from flux_training.training.lint.check import check_rules
from flux_training.training.lint.registry import Subject
from flux_training.training.train_yml import trainer_config
from flux_training.training.train_yml.edit import checkpoint_distance, new_train_yml
from flux_training.training.train_yml.templates import COMMON, PROMPTS
from flux_training.training.train_yml.trainer_config import (
    MAX_BYTES,
    TrainerFile,
    parse_train_yml,
    positive_int,
    read_trainer_file,
)

# config/examples/train_lora_flux_24gb.yaml of ostris/ai-toolkit: the values that the recipe keeps.
EXAMPLE = {
    "network": {"type": "lora", "linear": 16, "linear_alpha": 16},
    "train": {
        "batch_size": 1,
        "steps": 2000,
        "gradient_accumulation_steps": 1,
        "train_unet": True,
        "train_text_encoder": False,
        "gradient_checkpointing": True,
        "noise_scheduler": "flowmatch",
        "optimizer": "adamw8bit",
        "lr": 1e-4,
        "ema_config": {"use_ema": True, "ema_decay": 0.99},
        "dtype": "bf16",
    },
}
TEXTS = st.text(st.characters(categories=["L", "N", "P", "Zs", "S"]), min_size=1, max_size=20).filter(
    str.isprintable
)


def process_of(text: str) -> dict[str, object]:
    process = parse_train_yml((text).encode())["config"]["process"][0]
    assert isinstance(process, dict)
    return process


def test_unchanged_values_equal_the_ai_toolkit_example() -> None:
    process = process_of(new_train_yml("cat", "word"))
    assert {key: process[key] for key in EXAMPLE} == EXAMPLE


def test_the_recipes_five_changes_are_made() -> None:
    document = parse_train_yml(new_train_yml("cat", "word", ["[trigger] at sea", 'say "hi": #1']).encode())
    process = document["config"]["process"][0]
    assert document["config"]["name"] == "cat"
    assert process["datasets"][0]["folder_path"] == "dataset"
    assert process["model"]["name_or_path"] == "/model"
    assert process["sample"]["prompts"] == ["[trigger] at sea", 'say "hi": #1']
    # The recipe keeps 2. A checkpoint that the trainer deletes is deleted in the bucket too, so keep all.
    assert (
        process["save"]["max_step_saves_to_keep"] > process["train"]["steps"] / process["save"]["save_every"]
    )
    assert process["trigger_word"] == "word"


def test_non_ascii_words_are_written_unescaped() -> None:
    text = new_train_yml("cat", "größe", ["[trigger] 🐈 \\"])
    assert 'trigger_word: "größe"' in text
    assert '- "[trigger] 🐈 \\\\"' in text


def test_every_comment_of_the_template_is_kept() -> None:
    comments = [
        line for line in COMMON.read_text(encoding="utf-8").splitlines() if line.lstrip().startswith("#")
    ]
    made = new_train_yml("cat", "word").splitlines()
    assert [line for line in made if line.lstrip().startswith("#")] == comments
    assert sum("!" in comment for comment in comments) == 6  # five changes, and the line that explains `!`


@settings(max_examples=15, deadline=None)
@given(TEXTS, st.lists(TEXTS, min_size=1, max_size=4))
def test_any_trigger_word_and_prompt_survive_a_round_trip(trigger: str, prompts: list[str]) -> None:
    process = process_of(new_train_yml("cat", trigger, prompts))
    assert process["trigger_word"] == trigger
    assert process["sample"]["prompts"] == prompts  # type: ignore[index]  # the template has the section


@pytest.mark.parametrize("prompt", PROMPTS)
def test_default_prompts_have_the_trigger_word(prompt: str) -> None:
    assert "[trigger]" in prompt


def test_a_new_train_yml_has_no_finding(tmp_path: Path) -> None:
    (tmp_path / "cat").mkdir()
    (tmp_path / "cat/train.yml").write_text(new_train_yml("cat", "word"), encoding="utf-8")
    assert check_rules(Subject("cat", tmp_path / "cat", read_trainer_file(tmp_path / "cat"), None)) == []


@pytest.mark.parametrize("raw", [b"a: " + b"[" * 100_000, b"- " * 100_000, b"? " * 100_000])
def test_deeply_nested_yaml_is_an_empty_document(raw: bytes) -> None:
    assert parse_train_yml(raw) == {}


@pytest.mark.parametrize("head", ["", "%YAML 1.3\n---\n"])
def test_a_number_like_1e_4_is_read_as_ai_toolkit_reads_it(head: str) -> None:
    """libyaml rejects the `%YAML 1.3` header; PyYAML and ai-toolkit accept it."""
    text = head + "job: extension\nconfig:\n  name: cat\n  process: [{lr: 1e-4, model: {lora:}}]\n"
    assert parse_train_yml(text.encode())["config"]["process"][0]["lr"] == 0.0001


@pytest.mark.parametrize(
    ("raw", "message", "line", "code"),
    [
        (b"", "the file is empty", None, "config-keys"),
        (b"# nothing\n", "the file is empty", None, "config-keys"),
        (b"[a]", "ai-toolkit needs the keys `job` and `config` at the top", None, "config-keys"),
        (b"job: x\nname: caf\xe9", "not UTF-8 (byte 16)", None, "config-encoding"),
        (
            b"job: x\nconfig: ]\n",
            "not YAML (expected the node content, but found ']'): `config: ]`",
            2,
            "config-yaml",
        ),
        (
            b"a: \x07\n",
            "contains the control character U+0007",
            None,
            "config-yaml",
        ),
        (
            b"job: x\nconfig: {name: cat}\nmeta: &m\n  again: *m\n",
            "ai-toolkit cannot convert it to JSON (an alias refers to itself)",
            3,
            "config-value",
        ),
        (
            b"job: x\nconfig: {name: cat, made: 2026-01-02}\n",
            "ai-toolkit cannot convert it to JSON (2026-01-02 is a date, put it in quotes for a text)",
            None,
            "config-value",
        ),
    ],
)
def test_invalid_train_yml_is_reported_with_its_bytes(
    tmp_path: Path, raw: bytes, message: str, line: int | None, code: str
) -> None:
    path = tmp_path / "train.yml"
    path.write_bytes(raw)
    assert read_trainer_file(tmp_path) == TrainerFile(
        path, raw, fault=Problem(str(path), message, line, code)
    )
    assert parse_train_yml(raw) == {}


@pytest.mark.parametrize(
    ("names", "message", "code"),
    [
        ([], "no train.yml", "config-missing"),
        (["Train.yml"], "no train.yml; rename Train.yml to train.yml", "config-missing"),
        (["TRAIN.YAML"], "no train.yml; rename TRAIN.YAML to train.yml", "config-missing"),
        (["notes.txt", "trian.yml"], "no train.yml; rename trian.yml to train.yml", "config-missing"),
        (["train2.yml", "prompts.yml"], "no train.yml", "config-missing"),
        (["train.yml", "train.yaml"], "both train.yml and train.yaml", "config-both"),
    ],
)
def test_missing_or_duplicate_train_yml_is_reported_for_the_folder(
    tmp_path: Path, names: list[str], message: str, code: str
) -> None:
    for name in names:
        (tmp_path / name).write_bytes(b"job: x\nconfig: {}\n")
    assert read_trainer_file(tmp_path) == TrainerFile(
        tmp_path, fault=Problem(str(tmp_path), message, code=code)
    )


def test_an_unreadable_train_yml_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(_path: Path, _limit: int) -> bytes:
        raise OSError(errno.EIO, "Input/output error")

    path = tmp_path / "train.yml"
    path.write_bytes(b"job: x\nconfig: {}\n")
    monkeypatch.setattr(trainer_config, "read_regular_file", failing)
    assert read_trainer_file(tmp_path) == TrainerFile(
        path, fault=Problem(str(path), "cannot be read (Input/output error)", code="config-unreadable")
    )


@pytest.mark.parametrize(("size", "code"), [(MAX_BYTES, "config-keys"), (MAX_BYTES + 1, "config-unreadable")])
def test_a_train_yml_that_is_too_large_is_not_read(tmp_path: Path, size: int, code: str) -> None:
    (tmp_path / "train.yml").write_bytes(b"#" * size)
    fault = read_trainer_file(tmp_path).fault
    assert fault is not None
    assert fault.code == code


def test_values_are_counted_with_aliases_expanded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    raw = b"job: x\nconfig: {a: &a [1, 2], b: *a}\n"  # 13 nodes: 5, and 4 each for a and b
    (tmp_path / "train.yml").write_bytes(raw)
    monkeypatch.setattr(trainer_config, "MAX_NODES", 13)
    assert parse_train_yml(raw)["config"] == {"a": [1, 2], "b": [1, 2]}
    monkeypatch.setattr(trainer_config, "MAX_NODES", 12)
    fault = read_trainer_file(tmp_path).fault
    assert fault is not None
    assert fault.message == "its aliases expand to more than 12 values"


def test_aliases_that_expand_exponentially_are_refused_at_once(tmp_path: Path) -> None:
    doubled = "".join(f"a{n}: &a{n} [*a{n - 1}, *a{n - 1}]\n" for n in range(1, 60))
    (tmp_path / "train.yml").write_text(f"job: x\nconfig: {{}}\na0: &a0 [1]\n{doubled}")
    fault = read_trainer_file(tmp_path).fault
    assert fault is not None
    assert "expand to more than 100000 values" in fault.message


@pytest.mark.parametrize(
    ("text", "repeated"),
    [
        ("job: x\nconfig:\n  process:\n    - lr: 1\n      lr: 2\n", (("config.process.0.lr", 5),)),
        ("job: x\nconfig: {}\njob: y\n", (("job", 3),)),
        ("job: x\nconfig: {}\na: [&a {b: 1}, &c {d: 1}]\ne:\n  <<: *a\n  <<: *c\n", ()),
    ],
)
def test_duplicate_keys_are_noted_but_merges_are_not(
    tmp_path: Path, text: str, repeated: tuple[tuple[str, int], ...]
) -> None:
    (tmp_path / "train.yml").write_text(text, encoding="utf-8")
    assert read_trainer_file(tmp_path).repeated == repeated


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("job: x\nconfig:\n  name: cat\n", 3),
        ("job: x\nconfig:\n  process: []\n", 2),
        ("base: &b\n  config: {name: cat}\n<<: *b\njob: x\n", None),
    ],
)
def test_a_missing_key_has_the_line_of_its_parent(tmp_path: Path, text: str, line: int | None) -> None:
    (tmp_path / "train.yml").write_text(text, encoding="utf-8")
    file = read_trainer_file(tmp_path)
    assert file.fault is None
    assert file.line_of(("config", "name")) == line


def test_a_long_name_in_many_places_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a name of half a megabyte, the text would need gigabytes."""
    raw = b"job: x\nconfig: {name: %s}\nmeta: {a: '%s'}\n" % (b"n" * 500, b"[name]" * 100)
    (tmp_path / "train.yml").write_bytes(raw)
    assert len(parse_train_yml(raw)["meta"]["a"]) == 500 * 100
    monkeypatch.setattr(trainer_config, "MAX_EXPANDED", 500 * 100)
    fault = read_trainer_file(tmp_path).fault
    assert fault is not None
    assert fault.message == "its placeholders expand to more than 50000 characters"


@pytest.mark.parametrize(
    ("name", "told"), [("cat", "cat-v1"), ("'a\"b'", 'a"b-v1'), ("''", "-v1"), ("7", "[name]-v1")]
)
def test_the_name_placeholder_is_replaced_if_the_name_is_a_text(name: str, told: str) -> None:
    raw = f"job: x\nconfig: {{name: {name}}}\nmeta: {{version: '[name]-v1'}}\n"
    assert parse_train_yml(raw.encode())["meta"] == {"version": told}


@pytest.mark.parametrize(
    ("value", "number"), [(1, 1), (2000, 2000), (0, None), (-1, None), (True, None), (2.0, None), ("3", None)]
)
def test_positive_int_rejects_other_values(value: object, number: int | None) -> None:
    assert positive_int(value) == number


@pytest.mark.parametrize(
    ("steps", "distance"),
    [(2000, 250), (500, 250), (300, 150), (350, 175), (1200, 240), (100, 100), (997, None), (20, None)],
)
def test_checkpoints_are_spread_evenly_over_the_steps(steps: int, distance: int | None) -> None:
    assert checkpoint_distance(steps) == distance
