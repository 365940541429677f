"""`flux doctor` against the local cloud: its results, and that a failing check does not stop the others."""

import io
import json
import re
import socket
import sys
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
from localcloud.testing import running_cloud
from pydantic import SecretStr
from rich.console import Console

from flux_training.clients.connection import Connection, connect
from flux_training.clients.errors import ServiceError
from flux_training.clients.kelpie import Job, KelpieRule
from flux_training.clients.reachability import CHECK_NETWORK, ServiceProbe, probe_services, service_addresses
from flux_training.clients.salad import ContainerGroup, GroupSpec
from flux_training.clients.stack.services import StackServices
from flux_training.clients.storage import Storage
from flux_training.commands.doctor import command as doctor
from flux_training.commands.doctor.machine import (
    check_aws_package,
    check_disk,
    check_packages,
    check_python,
    declared_jobs,
)
from flux_training.commands.doctor.result import CheckResult, bad, ok, run_check
from flux_training.commands.doctor.services import (
    check_bucket,
    check_clock,
    check_cloudflare,
    check_finished_weights,
    check_gpu,
    check_group,
    check_invitation,
    check_kelpie,
    check_node_keys,
    check_quota,
    check_reachable,
)
from flux_training.commands.watch.job_status import StackJob
from flux_training.training.cluster_settings import ClusterSettings
from flux_training.training.errors import BadInput, FluxError
from flux_training.training.runs.pins import PinnedWeights
from flux_training.training.runs.run import Layout
from flux_training.training.settings import StackSettings, StorageSettings
from tests.support.flux import make_checkout
from tests.training.lint_folders import make_clean_job, stack

NOW = datetime(2026, 11, 23, 12, tzinfo=UTC)
UP = "`make up STACK=prod`"
ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def connection(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Connection]:
    home = tmp_path_factory.mktemp("cloud")
    with running_cloud(home, nodes=0, quota=5):
        yield connect("local", {}, {"FLUX_LOCAL_CLOUD": str(home / "connection.json")})


def settings(**cluster: object) -> StackSettings:
    raw = {"cloud": "local", "storage": {"bucket": "flux-doctor"}, "jobs": {}, "cluster": cluster}
    return StackSettings.model_validate(raw)


def verdicts(found: list[CheckResult]) -> list[str]:
    return [result.verdict for result in found]


def group(replicas: int) -> ContainerGroup:
    container = {"image": "i", "resources": {"cpu": 1, "memory": 1024}}
    state = {"status": "running"}
    raw = {"id": "g", "name": "g", "replicas": replicas, "container": container, "current_state": state}
    return ContainerGroup.model_validate(raw)


@pytest.mark.parametrize(
    ("mark", "adopt", "verdict", "message"),
    [
        ("p/prod", False, "ok", "g may be used by this stack"),
        ("p/dev", True, "ok", "g may be used by this stack"),
        ("p/dev", False, "bad", "g exists already and belongs to p/dev"),
        (None, False, "bad", "g exists already and was not created by this project"),
    ],
)
def test_a_container_group_of_others_is_found_before_the_preview_refuses_it(
    mark: str | None, adopt: bool, verdict: str, message: str
) -> None:
    found = group(0)
    if mark:
        found.container.environment_variables["FLUX_OWNER"] = SecretStr(mark)
    (result,) = check_group(found, "p/prod", adopt)
    assert (result.verdict, result.message) == (verdict, message)
    assert ("`p:adopt: true` under `config:` in Pulumi.prod.yaml" in result.fix) == (verdict == "bad")
    assert ("pulumi stack rename dev --stack prod`" in result.fix) == (verdict == "bad" and mark is not None)
    assert check_group(None, "p/prod", adopt)[0].verdict == "ok"


def job(status: str, minutes: float, started: bool = False) -> Job:
    created = NOW - timedelta(minutes=minutes)
    return Job(
        id="j", container_group_id="g", status=status, created=created, started=created if started else None
    )


RULE = KelpieRule(container_group_id="g", min_replicas=0, max_replicas=2, idle_threshold_seconds=60)


@pytest.mark.parametrize(
    ("there", "rule", "jobs", "verdict", "words"),
    [
        (None, None, [], "note", "before the container group"),
        (group(0), None, [], "note", "before the scaling rule"),
        (group(1), RULE, [], "ok", "has started nodes"),
        (group(0), RULE, [job("completed", 90, started=True)], "ok", "has started nodes"),
        (group(0), RULE, [job("pending", 5)], "note", "cannot be checked yet"),
        (group(0), RULE, [job("pending", 16)], "bad", "never scaled up"),
        (group(0), RULE, [], "note", "cannot be checked yet"),
    ],
)
def test_whether_kelpies_user_is_invited_is_inferred_from_the_group_and_its_jobs(
    there: ContainerGroup | None, rule: KelpieRule | None, jobs: list[Job], verdict: str, words: str
) -> None:
    result = check_invitation(there, rule, jobs, NOW, UP)
    assert (result.verdict, words in result.message) == (verdict, True)


@pytest.mark.parametrize(
    ("date", "found"),
    [
        ("Mon, 23 Nov 2026 12:00:10 GMT", []),
        ("Mon, 23 Nov 2026 11:58:00 GMT", ["note"]),
        ("Mon, 23 Nov 2026 13:00:00 GMT", ["bad"]),
        ("yesterday", []),
        (None, []),
    ],
)
def test_a_wrong_clock_is_detected_by_the_date_header(date: str | None, found: list[str]) -> None:
    assert verdicts(check_clock("Storage", date, NOW)) == found


def test_all_checks_pass_with_the_local_cloud(connection: Connection) -> None:
    probes = probe_services(service_addresses(connection)).items()
    found = [result for name, probe in probes for result in check_reachable(name, probe)]
    found += check_gpu(connection.salad().gpu_classes(), settings().cluster, 24)
    found += check_quota(connection.salad(), [settings().cluster])
    storage = connection.storage("flux-doctor")
    storage.ensure()
    found += check_bucket(storage, settings(), UP)
    assert verdicts(found) == ["ok"] * 6
    assert list(storage.list()) == []


def test_kelpie_is_checked_with_and_without_a_group(connection: Connection) -> None:
    assert verdicts(check_kelpie(connection, settings(name="flux-doctor").cluster, UP)) == ["ok", "note"]
    gpu = connection.salad().gpu_class_id("RTX 5090")
    made = connection.salad().create_group(
        GroupSpec(name="flux-doctor", image="i", gpu_classes=[gpu], autostart=False)
    )
    connection.kelpie().put_rule(made.id, 0, 1, 60)
    assert verdicts(check_kelpie(connection, settings(name="flux-doctor").cluster, UP)) == ["ok", "note"]
    assert verdicts(check_kelpie(connection, settings(name="flux-doctor", autoscale=False).cluster, UP)) == [
        "ok",
        "ok",
    ]


def test_too_small_a_quota_or_gpu_is_bad(connection: Connection) -> None:
    classes = connection.salad().gpu_classes()
    assert verdicts(check_quota(connection.salad(), [settings(maxReplicas=6).cluster])) == ["bad"]
    (small,) = check_gpu(classes, settings(gpu="RTX 3060").cluster, 24)
    assert (small.verdict, small.fix) == ("bad", "the jobs need 24 GB: choose another cluster.gpu")
    assert verdicts(check_gpu(classes, settings(gpu="RTX 3060").cluster, 12)) == ["ok"]
    with pytest.raises(BadInput, match="similar names: RTX 4090"):
        check_gpu(classes, settings(gpu="RTX 4091").cluster, 24)
    with pytest.raises(BadInput, match="no GPU class with at least 48 GB"):
        check_gpu(classes, settings(gpu="cheapest").cluster, 48)


@pytest.mark.parametrize("wanted", ["cheapest", ">= 24 GB"])
def test_a_gpu_condition_that_a_class_meets_is_ok(connection: Connection, wanted: str) -> None:
    (found,) = check_gpu(connection.salad().gpu_classes(), settings(gpu=wanted).cluster, 24)
    assert found.verdict == "ok"
    assert f"`{wanted}` is available: RTX" in found.message


@pytest.mark.parametrize(("credentials", "lines"), [("temporary", 1), ("token", 2)])
def test_cloudflares_token_is_checked(connection: Connection, credentials: str, lines: int) -> None:
    storage = {"kind": "r2", "bucket": "flux-doctor-r2", "credentials": credentials}
    wanted = StackSettings.model_validate({"cloud": "local", "storage": storage, "jobs": {}})
    found = check_cloudflare(connection, wanted, UP)
    assert verdicts(found) == ["ok"] * lines
    assert "does not exist yet" in found[0].message

    wrong = connection.model_copy(update={"cloudflare_api_token": SecretStr("canary-77")})
    (told,) = run_check("Cloudflare", lambda: check_cloudflare(wrong, wanted, UP))
    assert told.verdict == "bad"
    assert "Cloudflare API token" in told.message + told.fix
    assert "canary-77" not in repr(told)


@pytest.mark.parametrize(("credentials", "verdict"), [("temporary", "ok"), ("token", "note")])
def test_keys_for_the_whole_bucket_are_told(connection: Connection, credentials: str, verdict: str) -> None:
    storage = {"kind": "r2", "bucket": "flux-doctor-r2", "credentials": credentials}
    wanted = StackSettings.model_validate({"cloud": "salad", "storage": storage, "jobs": {}})
    real = connection.model_copy(update={"cloud": "salad"})
    assert verdicts(check_node_keys(StackServices(real, wanted))) == [verdict]
    assert check_node_keys(StackServices(connection, wanted)) == []


def test_replaced_weights_are_bad(connection: Connection) -> None:
    storage = connection.storage("flux-doctor-results")
    storage.ensure()
    keys = Layout("").run("cat", "0123456789ab")
    pin = PinnedWeights(sha256="a" * 64, size=5, step=20)
    storage.put_bytes(keys.weights, b"first")
    deployed = StackJob("cat", "0123456789ab", "", 20, keys, weights=pin)
    assert verdicts(check_finished_weights(storage, [deployed], "prod")) == ["ok"]
    storage.put_bytes(keys.weights, b"others")
    (found,) = check_finished_weights(storage, [deployed], "prod")
    assert found.verdict == "bad"
    assert "somebody replaced them" in found.message
    assert "--accept-changed-weights --stack prod`" in found.fix
    assert check_finished_weights(storage, [], "prod") == []


def test_a_missing_bucket_is_only_a_note(connection: Connection) -> None:
    assert verdicts(check_bucket(connection.storage("flux-nowhere"), settings(), UP)) == ["note"]


class ForbiddingStorage(Storage):
    """Refuses one operation."""

    forbidden: str

    def _call(self, operation: str, **arguments: Any) -> Any:
        if operation == self.forbidden:
            raise ServiceError(f"{operation} is forbidden")
        return super()._call(operation, **arguments)


@pytest.mark.parametrize(
    ("operation", "words"),
    [
        ("put_object", "cannot write"),
        ("get_object", "cannot read"),
        ("list_objects_v2", "cannot list"),
        ("delete_objects", "cannot delete"),
    ],
)
def test_a_missing_right_is_reported(connection: Connection, operation: str, words: str) -> None:
    storage = connection.storage("flux-rights")
    storage.ensure()
    made = ForbiddingStorage.__new__(ForbiddingStorage)
    made.__dict__.update(storage.__dict__, forbidden=operation)
    found = check_bucket(made, settings(), UP)
    assert (verdicts(found), words in found[0].message) == (["bad"], True)


def test_wrong_keys_are_reported_and_not_printed(connection: Connection) -> None:
    wrong = connection.model_copy(
        update={"api_key": SecretStr("not-a-salad-key"), "s3_secret_access_key": SecretStr("not-an-s3-key")}
    )
    clients = wrong.model_copy(update={"few_retries": True})
    checks: list[Callable[[], list[CheckResult]]] = [
        lambda: check_quota(clients.salad(), [settings().cluster]),
        lambda: check_kelpie(clients, settings().cluster, UP),
        lambda: check_bucket(clients.storage("flux-doctor"), settings(), UP),
    ]
    found = [result for check in checks for result in run_check("x", check)]
    assert set(verdicts(found)) == {"bad"}
    assert all(result.fix and "not-a" not in result.message for result in found)


@pytest.mark.parametrize("url", ["http://127.0.0.1:1/", "http://nowhere.invalid/", "https://127.0.0.1:1/x"])
def test_an_unreachable_service_is_reported(url: str) -> None:
    assert verdicts(check_reachable("Kelpie", probe_services({"Kelpie": url})["Kelpie"])) == ["bad"]


@pytest.mark.parametrize(
    ("problem", "step"),
    [
        (
            "[SSL: CERTIFICATE_VERIFY_FAILED] certificate verify failed: self-signed certificate",
            "set SSL_CERT_FILE",
        ),
        ("[SSL: WRONG_VERSION_NUMBER] wrong version number", "does not use https"),
        ("[Errno -2] Name or service not known", CHECK_NETWORK),
    ],
)
def test_the_step_for_an_unreachable_service_depends_on_the_cause(problem: str, step: str) -> None:
    (result,) = check_reachable("Storage", ServiceProbe("s3.example", problem))
    assert step in result.fix


def test_a_service_that_does_not_answer_in_time_is_not_waited_for() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        probe = probe_services({"Kelpie": url}, seconds=0.1)["Kelpie"]
    assert probe.problem
    assert "127.0.0.1 cannot be reached: " in check_reachable("Kelpie", probe)[0].message


@pytest.mark.parametrize(
    "error", [ValueError("odd"), KeyError("k"), RecursionError(), OSError(13, "denied"), BadInput(["a", "b"])]
)
def test_an_exception_in_a_check_becomes_a_result(error: Exception) -> None:
    def check() -> list[CheckResult]:
        raise error

    found = run_check("Thing", check)
    assert set(verdicts(found)) == {"bad"}
    assert len(found) == (2 if isinstance(error, BadInput) else 1)


def test_this_machine_passes() -> None:
    assert verdicts([*check_python(ROOT), *check_disk(ROOT)]) == ["ok", "ok"]
    assert verdicts(check_packages(ROOT)) in (["ok"], ["note"])


@pytest.mark.parametrize("tool", ["", "flux-training/"])
def test_a_python_that_is_too_old_is_replaced_where_the_tool_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tool: str
) -> None:
    if tool:
        (tmp_path / "flux-training/flux_training").mkdir(parents=True)
    monkeypatch.setattr("flux_training.commands.doctor.machine.MIN_PYTHON", (99, 0))
    (found,) = check_python(tmp_path)
    assert f"`rm -rf {tool}.venv; make ready`" in found.fix


def test_what_is_wrong_with_many_images_is_one_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = make_clean_job(tmp_path / "jobs", "bird")
    for name in ("00001", "00002", "00003", "00004"):
        (folder / f"dataset/{name}.txt").unlink()
    monkeypatch.chdir(tmp_path)
    settings = stack(bird={})
    (found,) = run_check("Jobs", lambda: [ok("Jobs", str(declared_jobs(settings, "dev")))])
    assert found.message.startswith(
        "jobs/bird/dataset/00001.txt, 00002.txt, 00003.txt and 1 more: no caption"
    )
    assert "`./flux caption bird`" in found.message


def test_a_missing_package_is_reported(tmp_path: Path) -> None:
    (tmp_path / "requirements.txt").write_text("httpx==0.0.1\nno-such-package-of-ours==1.0\n")
    found = check_packages(tmp_path)
    assert (verdicts(found), "no-such-package-of-ours" in found[0].message) == (["bad"], True)
    (tmp_path / "requirements.txt").write_text("httpx==0.0.1\n")
    assert verdicts(check_packages(tmp_path)) == ["note"]


@pytest.mark.parametrize(
    ("pin", "verdict", "said", "fix"),
    [
        (f"httpx=={metadata.version('httpx')}", "ok", "all 1 have the versions of flux-training/requirements.txt", ""),
        ("httpx==0.0.1", "note", "differ from flux-training/requirements.txt", "`rm -f flux-training/.venv/ready; make ready`"),
    ],
)  # fmt: skip
def test_a_project_of_ones_own_is_checked_for_the_packages_of_the_tool(
    tmp_path: Path, pin: str, verdict: str, said: str, fix: str
) -> None:
    (tmp_path / "flux-training/flux_training").mkdir(parents=True)
    (tmp_path / "requirements.txt").write_text("-r flux-training/requirements.txt\n")
    (tmp_path / "flux-training/requirements.txt").write_text(f"{pin}\n")
    (found,) = check_packages(tmp_path)
    assert (found.verdict, said in found.message, found.fix) == (verdict, True, fix)


def test_the_package_for_aws_is_required_only_on_aws(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    on_aws = settings().model_copy(update={"storage": StorageSettings(bucket="weights", kind="aws")})
    assert verdicts(check_aws_package(on_aws)) == ["ok"]
    monkeypatch.setitem(sys.modules, "pulumi_aws", None)
    (tmp_path / "requirements.txt").write_text(f"httpx=={metadata.version('httpx')}\npulumi-aws==0.1\n")
    assert verdicts(check_packages(tmp_path)) == ["ok"]
    assert check_aws_package(settings()) == []
    (found,) = check_aws_package(on_aws)
    assert (found.verdict, found.fix) == ("bad", "`make aws`")


def test_the_settings_of_these_tests_are_the_defaults() -> None:
    assert settings().cluster == ClusterSettings()


@pytest.mark.parametrize("width", [60, 80])
def test_on_a_terminal_no_word_is_cut(width: int, monkeypatch: pytest.MonkeyPatch) -> None:
    words = [f"word{number}" for number in range(40)]
    terminal = Console(force_terminal=True, no_color=True, width=width, file=io.StringIO())
    monkeypatch.setattr(doctor, "console", terminal)
    monkeypatch.setattr(doctor, "screen", terminal)
    title = "Cloudflare's token"
    doctor.DoctorChecks(doctor.print_result).check(
        title, lambda: [bad(title, " ".join(words), "run the next")]
    )
    assert isinstance(terminal.file, io.StringIO)
    lines = re.sub(r"\x1b\[[\d;]*m", "", terminal.file.getvalue()).splitlines()
    assert all(len(line) <= width for line in lines)
    assert " ".join(lines).split() == ["bad", *title.split(), *words, "fix:", "run", "the", "next"]
    assert {line[:25].strip() for line in lines[1:]} == {""}


def test_a_fix_is_introduced_once() -> None:
    def fail() -> list[CheckResult]:
        raise FluxError("no passphrase", "", "fix: set it")

    assert run_check("Passphrase", fail)[0].fix == "set it"


def test_results_are_one_json_object_on_request(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(make_checkout(tmp_path / "checkout"))
    with pytest.raises(SystemExit) as ended:
        doctor.doctor.main(["--stack", "absent", "--json"], standalone_mode=False)
    found = json.loads(capsys.readouterr().out)
    assert (ended.value.code, found["stack"], found["well"]) == (1, "absent", False)
    assert {"title": "Python", "verdict": "ok"}.items() <= found["checks"][0].items()
    (stack_file,) = [check for check in found["checks"] if check["verdict"] == "bad"]
    assert stack_file["title"] == "Stack file"


def test_the_name_of_a_setting_does_not_become_a_picture(capsys: pytest.CaptureFixture[str]) -> None:
    """rich takes `:cloud:` for an emoji."""
    doctor.print_result(bad("Settings", "flux-training:cloud: must be 'local' or 'salad'", "correct it"))
    assert "flux-training:cloud: must be" in capsys.readouterr().out
