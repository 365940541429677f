"""Where the keys come from: the local cloud's file for local, environment then stack for SaladCloud."""

import json
import socket
import threading
from pathlib import Path

import pytest
from pydantic import SecretStr, ValidationError

from flux_training.clients import reachability
from flux_training.clients.connection import (
    CONNECTION_SETTINGS,
    Connection,
    connect,
    endpoint_finding,
    parse_storage_kind,
)
from flux_training.clients.errors import Unavailable
from flux_training.clients.reachability import ServiceProbe, probe_services, require_network
from flux_training.training.environment import pulumi_command
from flux_training.training.errors import BadInput, FluxError

CANARY = "canary-conn-e4b7"
LOCAL = {
    "version": 1,
    "running": True,
    "pid": 1,
    "page": "http://127.0.0.1:8650/",
    "s3": {
        "url": "http://127.0.0.1:8651",
        "access_key_id": "local-id",
        "secret_access_key": CANARY,
        "region": "auto",
    },
    "salad": {
        "url": "http://127.0.0.1:8650/salad/api/public",
        "api_key": CANARY,
        "organization": "o",
        "project": "p",
    },
    "kelpie": {"url": "http://127.0.0.1:8650/kelpie"},
    "request_log": "requests.jsonl",
}
ENVIRONMENT = {
    "SALAD_API_KEY": f"{CANARY}-env",
    "SALAD_ORGANIZATION": "env-org",
    "SALAD_PROJECT": "env-proj",
    "FLUX_S3_ENDPOINT_URL": "https://account.r2.cloudflarestorage.com",
    "FLUX_S3_ACCESS_KEY_ID": f"{CANARY}-id",
    "FLUX_S3_SECRET_ACCESS_KEY": f"{CANARY}-secret",
}
SETTINGS = {
    "saladApiKey": SecretStr(f"{CANARY}-stack"),
    "saladOrganization": "stack-org",
    "saladProject": "stack-proj",
    "s3EndpointUrl": "https://other.r2.cloudflarestorage.com",
    "s3AccessKeyId": "stack-id",
    "s3SecretAccessKey": SecretStr(f"{CANARY}-stack-secret"),
    "s3Region": "weur",
}


def local_file(folder: Path, content: object) -> dict[str, str]:
    path = folder / "connection.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return {"FLUX_LOCAL_CLOUD": str(path)}


def test_the_local_cloud_is_read_only_from_its_file(tmp_path: Path) -> None:
    environ = ENVIRONMENT | {"KELPIE_API_URL": "https://elsewhere.test"} | local_file(tmp_path, LOCAL)
    connection = connect("local", SETTINGS, environ)
    assert connection.kelpie_url == "http://127.0.0.1:8650/kelpie"
    assert connection.salad_url == "http://127.0.0.1:8650/salad/api/public"
    assert connection.s3_endpoint == "http://127.0.0.1:8651"
    assert (connection.organization, connection.project) == ("o", "p")
    assert connection.api_key.get_secret_value() == CANARY
    assert connection.s3_access_key_id == "local-id"


def test_the_local_file_is_found_in_the_current_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(Unavailable, match=r"not running.*\.localcloud/connection\.json.*make cloud"):
        connect("local", {}, {})
    Path(".localcloud").mkdir()
    Path(".localcloud/connection.json").write_text(json.dumps(LOCAL))
    assert connect("local", {}, {}).page == "http://127.0.0.1:8650/"


@pytest.mark.parametrize(
    "content",
    ["{", "[]", "null", {"version": 2}, {"version": 1}, LOCAL | {"s3": None}, LOCAL | {"page": [CANARY]}],
)
def test_an_invalid_local_file_is_explained_without_its_keys(tmp_path: Path, content: object) -> None:
    with pytest.raises(FluxError, match="make cloud") as caught:
        connect("local", {}, local_file(tmp_path, content))
    assert CANARY not in str(caught.value)


def test_the_environment_takes_precedence_over_the_stack() -> None:
    connection = connect("salad", SETTINGS, ENVIRONMENT)
    assert connection.organization == "env-org"
    assert connection.api_key.get_secret_value() == f"{CANARY}-env"
    assert connection.s3_region == "weur"
    assert connection.salad_url == "https://api.salad.com/api/public"
    assert connection.kelpie_url == "https://kelpie.saladexamples.com"
    assert connection.page is None


def test_empty_variables_leave_the_stacks_settings() -> None:
    connection = connect("salad", SETTINGS, {"SALAD_API_KEY": "", "SALAD_PROJECT": "  "})
    assert connection.api_key.get_secret_value() == f"{CANARY}-stack"
    assert connection.project == "stack-proj"
    assert connection.s3_endpoint == "https://other.r2.cloudflarestorage.com"


def test_addresses_can_be_overridden() -> None:
    others = {"SALAD_API_URL": "http://127.0.0.1:1/s", "KELPIE_API_URL": "http://127.0.0.1:1/k"}
    connection = connect("salad", SETTINGS, others)
    assert (connection.salad_url, connection.kelpie_url) == ("http://127.0.0.1:1/s", "http://127.0.0.1:1/k")


def test_everything_missing_is_named_at_once() -> None:
    with pytest.raises(BadInput) as caught:
        connect("salad", {"saladProject": None}, {"SALAD_ORGANIZATION": "o"})
    named = [finding.split()[0] for finding in caught.value.findings]
    assert named == [
        "SALAD_API_KEY",
        "SALAD_PROJECT",
        "FLUX_S3_ENDPOINT_URL",
        "FLUX_S3_ACCESS_KEY_ID",
        "FLUX_S3_SECRET_ACCESS_KEY",
    ]
    assert "pulumi config set --secret saladApiKey" in str(caught.value)
    assert "pulumi config set saladProject" in str(caught.value)


def test_aws_needs_a_region_instead_of_an_endpoint() -> None:
    without = {name: value for name, value in ENVIRONMENT.items() if name != "FLUX_S3_ENDPOINT_URL"}
    connection = connect("salad", {}, without | {"FLUX_S3_REGION": "eu-west-1"})
    assert (connection.s3_endpoint, connection.s3_region) == (None, "eu-west-1")
    assert connection.storage("some-bucket").endpoint_url is None


AWS = {
    "AWS_ACCESS_KEY_ID": f"{CANARY}-aws",
    "AWS_SECRET_ACCESS_KEY": f"{CANARY}-aws-secret",
    "AWS_REGION": "eu-west-1",
    "AWS_SESSION_TOKEN": f"{CANARY}-session",
}
SALAD = {name: value for name, value in ENVIRONMENT.items() if name.startswith("SALAD_")}


def test_aws_uses_the_variables_of_its_own_tools() -> None:
    connection = connect("salad", {}, SALAD | AWS, "aws")
    assert (connection.s3_endpoint, connection.s3_region) == (None, "eu-west-1")
    assert connection.s3_access_key_id == f"{CANARY}-aws"
    assert connection.s3_session_token is not None
    with pytest.raises(BadInput) as caught:
        connect("salad", {}, SALAD, "aws")
    assert [finding.split()[0] for finding in caught.value.findings] == [
        "FLUX_S3_ACCESS_KEY_ID",
        "FLUX_S3_SECRET_ACCESS_KEY",
        "FLUX_S3_REGION",
    ]


def test_keys_of_different_sets_are_never_mixed() -> None:
    own = {name: value for name, value in ENVIRONMENT.items() if name.startswith("FLUX_S3_")}
    connection = connect("salad", {}, SALAD | AWS | own, "aws")
    assert connection.s3_access_key_id == f"{CANARY}-id"
    assert connection.s3_secret_access_key.get_secret_value() == f"{CANARY}-secret"
    assert connection.s3_session_token is None
    assert connection.s3_region == "eu-west-1"
    for half in ("FLUX_S3_ACCESS_KEY_ID", "FLUX_S3_SECRET_ACCESS_KEY"):
        with pytest.raises(BadInput) as caught:
            connect("salad", {}, SALAD | AWS | {name: own[name] for name in own if name != half}, "aws")
        assert [finding.split()[0] for finding in caught.value.findings] == [half]


def test_aws_variables_are_only_used_for_aws() -> None:
    with pytest.raises(BadInput, match="FLUX_S3_ACCESS_KEY_ID"):
        connect("salad", {}, SALAD | AWS, "s3")


def test_r2_needs_an_account_and_derives_its_endpoint() -> None:
    keys = {name: ENVIRONMENT[name] for name in ("FLUX_S3_ACCESS_KEY_ID", "FLUX_S3_SECRET_ACCESS_KEY")}
    with pytest.raises(BadInput) as caught:
        connect("salad", {}, SALAD | keys, "r2")
    assert [finding.split()[0] for finding in caught.value.findings] == [
        "CLOUDFLARE_ACCOUNT_ID",
        "CLOUDFLARE_API_TOKEN",
    ]
    account = {"CLOUDFLARE_ACCOUNT_ID": "abc", "CLOUDFLARE_API_TOKEN": f"{CANARY}-cloudflare"}
    connection = connect("salad", {}, SALAD | keys | account, "r2")
    assert connection.s3_endpoint == "https://abc.r2.cloudflarestorage.com"
    assert CANARY not in f"{connection!r} {connection.cloudflare()!r}"


def test_an_incomplete_pair_of_node_keys_is_reported() -> None:
    with pytest.raises(BadInput, match="FLUX_NODE_SECRET_ACCESS_KEY is missing"):
        connect("salad", {}, ENVIRONMENT | {"FLUX_NODE_ACCESS_KEY_ID": "n"})


@pytest.mark.parametrize(
    ("setting", "kind"),
    [(None, "s3"), ('{"kind": "r2"}', "r2"), ('{"bucket": "b"}', "s3"), ("{", "s3"), ("[]", "s3")],
)
def test_the_kind_of_storage_is_read_from_the_stack(setting: str | None, kind: str) -> None:
    assert parse_storage_kind(setting) == kind


@pytest.mark.parametrize(
    "address", ["account.r2.cloudflarestorage.com", "ftp://x", "https://", "http://[::1"]
)
def test_an_invalid_address_is_reported(address: str) -> None:
    with pytest.raises(BadInput, match="FLUX_S3_ENDPOINT_URL"):
        connect("salad", {}, ENVIRONMENT | {"FLUX_S3_ENDPOINT_URL": address})


@pytest.mark.parametrize("odd", [f"{CANARY} x", f"{CANARY}\nx", f"{CANARY}é", f"“{CANARY}”"])
def test_a_key_with_invalid_characters_is_reported_and_not_shown(odd: str) -> None:
    with pytest.raises(BadInput, match="SALAD_API_KEY contains") as caught:
        connect("salad", {}, ENVIRONMENT | {"SALAD_API_KEY": odd})
    assert CANARY not in str(caught.value)


def test_values_left_as_in_the_example_are_called_placeholders() -> None:
    left = {"saladOrganization": "…", "cloudflareAccountId": "…"}
    given = {name: value for name, value in ENVIRONMENT.items() if name != "SALAD_ORGANIZATION"}
    with pytest.raises(BadInput) as caught:
        connect("salad", left, given, "r2", "prod")
    organization, account, token = caught.value.findings
    assert organization == (
        "saladOrganization is still the placeholder …; write your own value into Pulumi.prod.yaml "
        "(docs/production.md says where it is shown), or `export SALAD_ORGANIZATION=…`"
    )
    assert account.startswith("cloudflareAccountId is still the placeholder …")
    assert "config set --secret cloudflareApiToken --stack prod`, which asks for it" in token


def test_commands_in_messages_begin_with_a_program_that_exists(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.executable", str(tmp_path / ".venv/bin/python"))
    monkeypatch.setenv("PATH", str(tmp_path / "cli"))
    for folder in (".venv/bin", "cli"):
        (tmp_path / folder).mkdir(parents=True)
        (tmp_path / folder / "pulumi").touch(mode=0o755)
        expected = ".venv/bin/pulumi" if folder == ".venv/bin" else "pulumi"
        assert pulumi_command("refresh", "prod") == f"`{expected} refresh --stack prod`"
    (tmp_path / "cli/pulumi").unlink()
    monkeypatch.chdir(tmp_path / "cli")
    assert pulumi_command("refresh") == f"`{tmp_path}/.venv/bin/pulumi refresh`"


@pytest.mark.parametrize("cloud", [None, "", "aws"])
def test_an_unknown_cloud_is_reported(cloud: str | None) -> None:
    with pytest.raises(BadInput, match="local or salad"):
        connect(cloud, SETTINGS, ENVIRONMENT)


def test_no_repr_shows_a_secret(tmp_path: Path) -> None:
    for connection in (
        connect("local", {}, local_file(tmp_path, LOCAL)),
        connect("salad", SETTINGS, ENVIRONMENT),
    ):
        clients = [connection.kelpie(), connection.salad(), connection.storage("bucket")]
        assert (
            CANARY
            not in f"{connection!r}{connection}{connection.model_dump_json(exclude={'s3_access_key_id'})}"
        )
        assert CANARY not in f"{clients!r}"


def test_a_connection_cannot_be_changed() -> None:
    connection = connect("salad", SETTINGS, ENVIRONMENT)
    with pytest.raises(ValidationError):
        connection.organization = "x"  # type: ignore[misc]  # that it is refused is what is tested


def test_clients_are_shared() -> None:
    connection = connect("salad", SETTINGS, ENVIRONMENT)
    again = connect("salad", SETTINGS, ENVIRONMENT)
    assert connection.kelpie() is again.kelpie()
    assert connection.salad() is again.salad()
    assert connection.storage("a") is again.storage("a")
    assert connection.storage("a") is not connection.storage("b")


def test_a_stopped_local_cloud_is_reported_with_a_fix(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    page = f"http://127.0.0.1:{port}/"
    connection = connect("local", {}, local_file(tmp_path, LOCAL | {"page": page}))
    with pytest.raises(Unavailable, match=rf"{page}.*make cloud"):
        connection.check_alive()


@pytest.mark.parametrize(
    ("page", "next_step"),
    [
        (None, "connection.json); start the local cloud with `make cloud`"),
        ("http://127.0.0.1:9/", "; start the local cloud with `make cloud`; if it is already running, check with `df -h` whether the disk is full"),
    ],
    ids=["no file", "no answer"],
)  # fmt: skip
def test_the_next_step_names_what_to_start(tmp_path: Path, page: str | None, next_step: str) -> None:
    if page:
        local_file(tmp_path, LOCAL | {"page": page})
    with pytest.raises(Unavailable) as caught:
        connect("local", {}, {"FLUX_LOCAL_CLOUD": str(tmp_path / "connection.json")}).check_alive()
    assert str(caught.value).endswith(next_step)


def test_salad_cloud_is_not_asked_whether_it_is_alive() -> None:
    connect("salad", SETTINGS, ENVIRONMENT | {"SALAD_API_URL": "http://127.0.0.1:1"}).check_alive()


def test_a_look_up_without_an_end_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a network, the look-up of a name has no time limit."""
    ended = threading.Event()

    def look_up(_url: str, _seconds: float) -> ServiceProbe:
        ended.wait(20)
        return ServiceProbe("s3.example")

    monkeypatch.setattr(reachability, "_probe", look_up)
    probe = probe_services({"Storage": "https://s3.example"}, seconds=0.05)["Storage"]
    ended.set()
    assert probe == ServiceProbe("s3.example", "no answer in 0.05 seconds")


@pytest.mark.parametrize("working", ["", "Storage"])
def test_no_client_tries_again_where_no_service_can_be_reached(
    monkeypatch: pytest.MonkeyPatch, working: str
) -> None:
    """Each client would find that out after all its retries."""
    monkeypatch.setattr(
        reachability,
        "probe_services",
        lambda urls: {
            name: ServiceProbe(name.lower(), "" if name == working else "no route") for name in urls
        },
    )
    connection = connect("salad", SETTINGS, ENVIRONMENT)
    if working:
        require_network(connection)
        return
    with pytest.raises(Unavailable, match=r"no service can be reached \(saladcloud: no route; kelpie"):
        require_network(connection)


def test_the_settings_a_stack_can_have() -> None:
    others = {"nodeAccessKeyId", "nodeSecretAccessKey", "cloudflareAccountId", "cloudflareApiToken"}
    assert set(CONNECTION_SETTINGS) == set(SETTINGS) | others
    assert "saladApiKey" not in Connection.model_fields


R2 = "https://account.r2.cloudflarestorage.com"


@pytest.mark.parametrize(
    ("endpoint", "right"),
    [
        (f"{R2}/flux", R2),
        (f"{R2}/flux/", R2),
        (f"{R2}/another", R2),
        ("https://flux.account.r2.cloudflarestorage.com", R2),
        ("http://127.0.0.1:9000/flux", "http://127.0.0.1:9000"),
        ("https://x.example/storage/v1/s3/flux", "https://x.example/storage/v1/s3"),
        ("http://127.0.0.1:9000/flux/some/folder", "http://127.0.0.1:9000"),
        (f"{R2}//flux//", R2),
        (f"{R2}/?bucket=flux", R2),
        (f"{R2}#flux", R2),
        ("https://flux.s3.eu-central-1.amazonaws.com/a", "https://s3.eu-central-1.amazonaws.com"),
    ],
)
def test_an_endpoint_that_contains_the_bucket_is_refused_with_the_right_one(
    endpoint: str, right: str
) -> None:
    finding = endpoint_finding(endpoint, "flux")
    assert finding.endswith(f"set it to {right}")
    connection = connect("salad", {}, {**ENVIRONMENT, "FLUX_S3_ENDPOINT_URL": endpoint})
    with pytest.raises(BadInput, match="contains a bucket, a folder or parameters"):
        connection.storage("flux")


@pytest.mark.parametrize("endpoint", ["https://dash.cloudflare.com/1/r2/flux", "https://pub-1.r2.dev"])
def test_a_page_in_place_of_an_endpoint_is_named_with_the_form_of_the_right_one(endpoint: str) -> None:
    assert "https://ACCOUNT.r2.cloudflarestorage.com" in endpoint_finding(endpoint, "flux")


def test_keys_in_an_endpoint_are_refused_and_not_shown() -> None:
    finding = endpoint_finding(f"https://id:{CANARY}@s3.example:9000/flux", "flux")
    assert "set it to https://s3.example:9000, and the keys" in finding
    assert CANARY not in finding


@pytest.mark.parametrize(
    "endpoint", ["https://x.example:99999", "https://x.example:0", "s3://flux", "x.example"]
)
def test_what_is_no_address_is_refused(endpoint: str) -> None:
    with pytest.raises(BadInput, match="must begin with https://"):
        connect("salad", {}, {**ENVIRONMENT, "FLUX_S3_ENDPOINT_URL": endpoint})


@pytest.mark.parametrize(
    "endpoint",
    [
        *(None, R2, f"{R2}/", "http://127.0.0.1:9000", "https://x.example/storage/v1/s3"),
        "https://flux.example.org",
    ],
)
def test_an_endpoint_alone_is_accepted(endpoint: str | None) -> None:
    assert endpoint_finding(endpoint, "flux") == ""
