"""The choice of the engine, its environment, its locks, and the settings that it returns."""

import json
import os
import socket
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from flux_training.clients.connection import VARIABLES
from flux_training.commands.stack import engine as engine_module
from flux_training.commands.stack.access import connect_to_services, preview_engine
from flux_training.commands.stack.engine import (
    UNKNOWN,
    Engine,
    choose_command,
    find_cli,
    find_engine,
    has_resource_changes,
    without_unknown_outputs,
)
from flux_training.commands.stack.file import stack_config, uses_local_cloud
from flux_training.commands.stack.locks import is_locked_by_dead_process
from flux_training.training.errors import BadInput, FluxError
from tests.support.flux import STACK_FILE

# Answers some commands like the CLI and the embedded engine. Its own stack exists if there is a file `exists`.
ENGINE = """\
import json, os, pathlib, sys
words = sys.argv[1:]
here = pathlib.Path(__file__).parent
if words[:2] == ["stack", "output"]:
    sys.exit(print("{}") if (here / "exists").exists() else "error: no stack named 'prod' found")
if words[:2] == ["stack", "init"]:
    (pathlib.Path(os.environ["PULUMI_BACKEND_URL"].removeprefix("file://")) / "state").touch()
    with (here / "Pulumi.prod.yaml").open("a") as file:
        file.write("encryptionsalt: v1:salt\\n")
if words[0] == "preview":
    print(json.dumps({"steps": [], "folder": str(pathlib.Path.cwd())}))
elif words[0] == "config":
    if (here / "refusal.txt").exists():
        sys.exit((here / "refusal.txt").read_text())
    settings = json.loads((here / "settings.json").read_text())
    print(json.dumps({f"flux-training:{key}": {"value": value} for key, value in settings.items()} | {"aws:region": {"value": "x"}}))
"""
SETTINGS = {"saladApiKey": "key", "saladOrganization": "us", "saladProject": "loras", "s3AccessKeyId": "id",
            "s3SecretAccessKey": "secret", "s3EndpointUrl": "https://s3.test"}  # fmt: skip


@pytest.fixture
def engine(tmp_path: Path) -> Engine:
    (tmp_path / "engine.py").write_text(ENGINE)
    (tmp_path / "settings.json").write_text(json.dumps(SETTINGS))
    return Engine((sys.executable, str(tmp_path / "engine.py")), dict(os.environ), "prod", tmp_path)


@pytest.fixture
def prod(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = STACK_FILE.replace("cloud: local", "cloud: salad")
    (tmp_path / "Pulumi.prod.yaml").write_text(text, encoding="utf-8")
    monkeypatch.setattr("flux_training.commands.stack.access.project_root", lambda: tmp_path)
    for variable in VARIABLES:
        monkeypatch.delenv(variable, raising=False)


@pytest.mark.usefixtures("prod")
@pytest.mark.parametrize("edit", ["", "# saved meanwhile\n"])
def test_a_preview_of_a_new_stack_leaves_nothing(
    engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, edit: str
) -> None:
    monkeypatch.setattr("flux_training.commands.stack.access.find_engine", lambda *_: engine)
    file = tmp_path / "Pulumi.prod.yaml"
    before = file.read_text(encoding="utf-8")
    with preview_engine("prod") as temporary:
        backend = Path(temporary.environment["PULUMI_BACKEND_URL"].removeprefix("file://"))
        assert (backend / "state").exists()
        with_salt = file.read_text(encoding="utf-8") + edit
        assert "encryptionsalt" in with_salt
        file.write_text(with_salt, encoding="utf-8")
    assert not backend.exists()
    assert file.read_text(encoding="utf-8") == (with_salt if edit else before)


@pytest.mark.usefixtures("prod")
def test_a_preview_of_an_existing_stack_uses_its_state(
    engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("flux_training.commands.stack.access.find_engine", lambda *_: engine)
    (tmp_path / "exists").touch()
    with preview_engine("prod") as found:
        assert found is engine


@pytest.mark.usefixtures("prod")
def test_an_empty_variable_counts_as_unset(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    """GitHub passes unset secrets as empty variables."""
    for variable in VARIABLES:
        monkeypatch.setenv(variable, " " if variable == "SALAD_PROJECT" else "")
    monkeypatch.setenv("SALAD_API_KEY", "another")
    found = connect_to_services(engine, "prod")
    assert (found.api_key.get_secret_value(), found.organization, found.project) == ("another", "us", "loras")


def test_a_preview_runs_in_the_checkout_whatever_the_working_directory(
    engine: Engine, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    found, words = engine.preview()
    assert (found["folder"], words) == (str(tmp_path), "")


@pytest.mark.usefixtures("prod")
def test_a_wrong_passphrase_is_not_mistaken_for_a_missing_key(engine: Engine, tmp_path: Path) -> None:
    (tmp_path / "refusal.txt").write_text("error: incorrect passphrase")
    with pytest.raises(FluxError, match="incorrect passphrase"):
        connect_to_services(engine, "prod")


def test_a_wrong_passphrase_of_the_cli_is_explained(engine: Engine, tmp_path: Path) -> None:
    (tmp_path / "refusal.txt").write_text("error: getting stack secrets manager: incorrect passphrase")
    with_phrase = replace(engine, environment={**engine.environment, "PULUMI_CONFIG_PASSPHRASE": "typo"})
    with pytest.raises(FluxError) as raised:
        with_phrase.settings()
    assert str(raised.value).startswith(
        "incorrect passphrase for stack prod: the one from PULUMI_CONFIG_PASSPHRASE does not decrypt its secrets; fix: `read -rs "
    )


def test_settings_are_those_of_the_project(engine: Engine, tmp_path: Path) -> None:
    assert engine.settings() == SETTINGS
    (tmp_path / "refusal.txt").write_text("error: no stack named 'prod' found")
    assert engine.settings() == {}


def test_unknown_outputs_are_left_out() -> None:
    """As CLI 3.276.0 stores them after `up --target` of one job beside a new one."""
    outputs = {
        "jobs": {"cat": {"kelpieId": "k", "status": UNKNOWN}, "dog": UNKNOWN},
        "cost": UNKNOWN,
        "bucket": "b",
    }
    known = without_unknown_outputs(outputs)
    assert known == {"jobs": {"cat": {"kelpieId": "k"}}, "bucket": "b"}
    assert without_unknown_outputs({}) == {}


EMBEDDED = (sys.executable, "-m", "pulumi_embedded")


@pytest.mark.parametrize(
    ("wanted", "cli", "command"),
    [
        ("", None, EMBEDDED),
        ("", "/bin/pulumi", ("/bin/pulumi",)),
        ("embedded", "/bin/pulumi", EMBEDDED),
        ("cli", "/bin/pulumi", ("/bin/pulumi",)),
    ],
)
def test_the_cli_is_preferred_if_installed(wanted: str, cli: str | None, command: tuple[str, ...]) -> None:
    assert choose_command(wanted, cli) == command


@pytest.mark.parametrize(
    ("wanted", "message"), [("cli", "no `pulumi` is on the PATH"), ("clii", "ENGINE=clii")]
)
def test_an_unavailable_engine_is_refused(wanted: str, message: str) -> None:
    with pytest.raises(FluxError, match=message):
        choose_command(wanted, None)


@pytest.mark.parametrize("starts_cli", [False, True])
def test_a_wrapper_counts_as_what_it_starts(tmp_path: Path, starts_cli: bool) -> None:
    wrapped = tmp_path / "real" if starts_cli else Path(sys.executable).with_name("pulumi")
    (tmp_path / "real").write_text("#!/bin/sh\necho v3.276.0\n")
    (tmp_path / "real").chmod(0o755)
    wrapper = tmp_path / "pulumi"
    wrapper.write_text(f'#!/bin/sh\nexec {wrapped} "$@"\n')
    wrapper.chmod(0o755)
    found = find_cli({"PATH": f"{tmp_path}:{wrapped.parent}:/usr/bin:/bin", "ENGINE": "cli"})
    assert found == (str(wrapper) if starts_cli else None)


def test_only_the_local_stack_has_a_default_passphrase(tmp_path: Path) -> None:
    variable = "PULUMI_CONFIG_PASSPHRASE"
    (tmp_path / "Pulumi.yaml").write_text("name: flux-training\n")
    assert find_engine("dev", local=True, environ={}, root=tmp_path).environment[variable] == ""
    assert find_engine("prod", local=False, environ={variable: "x"}).environment[variable] == "x"
    with pytest.raises(FluxError, match="needs the passphrase"):
        find_engine("prod", local=False, environ={})


@pytest.mark.parametrize(
    ("environ", "compressed"),
    [
        ({}, "true"),
        ({"PULUMI_DIY_BACKEND_GZIP": "false"}, "false"),
        ({"PULUMI_SELF_MANAGED_STATE_GZIP": "false"}, None),
        ({"PULUMI_DIY_BACKEND_ZSTD": "true"}, None),
    ],
)
def test_the_state_is_compressed_unless_the_user_decides(
    environ: dict[str, str], compressed: str | None
) -> None:
    environment = find_engine("dev", local=True, environ=environ).environment
    assert environment.get("PULUMI_DIY_BACKEND_GZIP") == compressed
    assert environ.items() <= environment.items()


@pytest.mark.parametrize(
    "environ", [{}, {"no_proxy": "a.example"}, {"no_grpc_proxy": "a.example", "no_proxy": "b.example"}]
)
def test_grpc_on_this_machine_needs_no_proxy(environ: dict[str, str]) -> None:
    hosts = find_engine("dev", local=True, environ=environ).environment["no_grpc_proxy"].split(",")
    assert hosts[-3:] == ["127.0.0.1", "localhost", "::1"]
    assert hosts[:-3] == (["a.example"] if environ else [])


def test_a_merge_conflict_in_the_stacks_file_is_named(tmp_path: Path) -> None:
    path = tmp_path / "Pulumi.dev.yaml"
    path.write_text("config:\n<<<<<<< HEAD\n  a: b\n=======\n  a: c\n>>>>>>> main\n", encoding="utf-8")
    with pytest.raises(BadInput, match=r"Pulumi.dev.yaml:2: contains the markers of a merge conflict"):
        stack_config(tmp_path, "dev")


def test_an_unknown_stack_is_reported_with_the_nearest_name(tmp_path: Path) -> None:
    (tmp_path / "Pulumi.prod.yaml").write_text("config:\n  flux-training:cloud: salad\n")
    assert not uses_local_cloud(tmp_path, "prod")
    with pytest.raises(BadInput, match="did you mean `prod`"):
        uses_local_cloud(tmp_path, "prd")
    (tmp_path / "Pulumi.bad.yaml").write_text("config: ]")
    with pytest.raises(BadInput, match=r"Pulumi\.bad\.yaml:1: not YAML"):
        uses_local_cloud(tmp_path, "bad")


HERE = socket.gethostname()
DEAD_PID = 2**22 + 1
DEAD = json.dumps({"pid": DEAD_PID, "hostname": HERE})


@pytest.mark.parametrize(
    ("locks", "is_dead"),
    [
        ([], False),
        ([DEAD], True),
        ([DEAD, json.dumps({"pid": os.getpid(), "hostname": HERE})], False),
        ([json.dumps({"pid": DEAD_PID, "hostname": "another"})], False),
        ([json.dumps({"pid": str(DEAD_PID), "hostname": HERE})], False),
        ([DEAD, "{"], False),
        # Another process has reused the id since.
        ([json.dumps({"pid": os.getpid(), "hostname": HERE, "timestamp": "2020-01-01T00:00:00Z"})], True),
    ],
)
def test_only_locks_of_processes_known_to_have_ended_count_as_dead(
    tmp_path: Path, locks: list[str], is_dead: bool
) -> None:
    folder = tmp_path / ".pulumi/locks/organization/flux-training/dev"
    folder.mkdir(parents=True)
    for number, lock in enumerate(locks):
        (folder / f"{number}.json").write_text(lock)
    assert is_locked_by_dead_process(tmp_path, "dev") == is_dead


# pytest-xdist needs the same names of tests in all workers.
@pytest.mark.parametrize(
    "lock",
    ["", DEAD, json.dumps({"pid": os.getpid(), "hostname": "another"})],
    ids=["no other", "of a dead process", "of another machine"],
)
def test_only_updates_that_run_on_this_machine_are_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lock: str
) -> None:
    folder = tmp_path / ".pulumi/locks/organization/flux-training/dev"
    folder.mkdir(parents=True)
    if lock:
        (folder / "other.json").write_text(lock)
    running = folder / "running.json"
    running.write_text(json.dumps({"pid": os.getpid(), "hostname": HERE}))
    pauses: list[float] = []

    def end_after_three(seconds: float) -> None:
        pauses.append(seconds)
        if len(pauses) == 3:
            running.unlink()

    monkeypatch.setattr(engine_module, "pause", end_after_three)
    waited_for: list[int] = []
    Engine(("pulumi",), {}, "dev", tmp_path).wait_for_other_updates(waited_for.append)
    assert (waited_for, len(pauses)) == ([os.getpid()], 3)


@pytest.mark.parametrize(
    ("counted", "found"),
    [
        ({"same": 10}, False),
        ({}, False),
        (None, False),
        ({"same": 9, "update": 1}, True),
        ({"create": 10}, True),
    ],
)
def test_changes_are_read_from_the_summary(counted: dict[str, int] | None, found: bool) -> None:
    summary = {"sequence": 1, "summaryEvent": {"resourceChanges": counted}}
    log = [{"sequence": 0, "preludeEvent": {}}, summary, {"sequence": 2, "cancelEvent": {}}]
    assert has_resource_changes("\n".join(map(json.dumps, log))) is found


def test_an_unfinished_event_log_is_no_promise() -> None:
    assert has_resource_changes('{"sequence": 0, "preludeEvent": {}}\n')


def test_after_ctrl_c_the_command_stops_once_the_engine_has_ended(tmp_path: Path) -> None:
    """`flux` then exits with 130 and says how to continue. The engine's own exit code is 1, or 0 if it was done."""
    script = tmp_path / "engine.py"
    script.write_text(
        "import os, pathlib, signal, time\n"
        "signal.signal(signal.SIGINT, signal.SIG_IGN)\n"
        "os.kill(os.getppid(), signal.SIGINT)\n"
        "time.sleep(0.2)\n"
        f"pathlib.Path({str(tmp_path / 'saved')!r}).touch()\n"
    )
    with pytest.raises(KeyboardInterrupt):
        Engine((sys.executable, str(script)), dict(os.environ), "prod", tmp_path).run("up")
    assert (tmp_path / "saved").exists()
