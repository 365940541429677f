"""Addresses and keys of the services, from the local cloud's file or from the user's settings."""

import functools
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal, get_args

import httpx
from pydantic import BaseModel, Field, SecretStr, ValidationError

from flux_training.clients.cloudflare import CLOUDFLARE_URL, Cloudflare
from flux_training.clients.errors import Unavailable
from flux_training.clients.http import RetryPolicy, trusted_certificates
from flux_training.clients.kelpie import KELPIE_URL, Kelpie
from flux_training.clients.salad import SALAD_URL, Salad
from flux_training.clients.storage import Storage
from flux_training.training.environment import pulumi_command
from flux_training.training.errors import BadInput, FluxError
from flux_training.training.runs.node_rights import nodes_reach_records
from flux_training.training.settings import StorageSettings

Cloud = Literal["local", "salad"]
Setting = str | SecretStr | None

FEW_RETRIES = RetryPolicy(attempts=2, first=0.2, total=20)
LOCAL_FILE = ".localcloud/connection.json"
LOCAL_FILE_VARIABLE = "FLUX_LOCAL_CLOUD"
LOCAL_VERSION = 1
# The text in docs/Pulumi.prod.yaml.example that the user has to replace.
PLACEHOLDER = "…"
START_LOCAL = "start the local cloud with `make cloud`"
# If the disk is full, the local cloud may run while its services fail.
IF_LOCAL_DOWN = f"{START_LOCAL}; if it is already running, check with `df -h` whether the disk is full"

# The environment variable for each setting of the stack. Environment variables take precedence over the stack's settings.
VARIABLES = {
    "SALAD_API_KEY": "saladApiKey",
    "SALAD_ORGANIZATION": "saladOrganization",
    "SALAD_PROJECT": "saladProject",
    "FLUX_S3_ENDPOINT_URL": "s3EndpointUrl",
    "FLUX_S3_ACCESS_KEY_ID": "s3AccessKeyId",
    "FLUX_S3_SECRET_ACCESS_KEY": "s3SecretAccessKey",
    "FLUX_S3_REGION": "s3Region",
    "FLUX_NODE_ACCESS_KEY_ID": "nodeAccessKeyId",
    "FLUX_NODE_SECRET_ACCESS_KEY": "nodeSecretAccessKey",
    "CLOUDFLARE_ACCOUNT_ID": "cloudflareAccountId",
    "CLOUDFLARE_API_TOKEN": "cloudflareApiToken",
}
CONNECTION_SETTINGS = tuple(VARIABLES.values())
SECRET_SETTINGS = ("saladApiKey", "s3SecretAccessKey", "nodeSecretAccessKey", "cloudflareApiToken")
# If storage.kind is aws, AWS's own variables are read too, so that one pair of keys serves both this program and pulumi-aws.
AWS_KEYS = {
    "FLUX_S3_ACCESS_KEY_ID": "AWS_ACCESS_KEY_ID",
    "FLUX_S3_SECRET_ACCESS_KEY": "AWS_SECRET_ACCESS_KEY",
}
# The hosts of Cloudflare's console and of its public bucket addresses, which only serve downloads.
PAGES = ("dash.cloudflare.com", ".r2.dev")
# The hosts of services whose addresses have no path.
WITHOUT_PATH = (
    ".r2.cloudflarestorage.com",
    ".amazonaws.com",
    ".backblazeb2.com",
    ".digitaloceanspaces.com",
    ".wasabisys.com",
    "storage.googleapis.com",
)
ALWAYS_NEEDED = (
    "SALAD_API_KEY",
    "SALAD_ORGANIZATION",
    "SALAD_PROJECT",
    "FLUX_S3_ACCESS_KEY_ID",
    "FLUX_S3_SECRET_ACCESS_KEY",
)


class Connection(BaseModel, extra="forbid", frozen=True):
    """Addresses and keys of one cloud. Its repr shows no key.

    `s3_endpoint` None means AWS. With storage.kind s3, nodes get the `node_…` keys instead of the stack's own.
    `page`: the local cloud's web page; None elsewhere. `few_retries`: report a failing service soon instead of waiting for it.
    `nodes_reach_records`: whether the stack's nodes can write the records below .flux/.
    """

    cloud: Cloud
    kelpie_url: str
    salad_url: str
    api_key: SecretStr
    organization: str
    project: str
    s3_endpoint: str | None
    s3_region: str = "auto"
    s3_access_key_id: str = Field(repr=False)
    s3_secret_access_key: SecretStr
    s3_session_token: SecretStr | None = None
    node_access_key_id: str | None = Field(None, repr=False)
    node_secret_access_key: SecretStr | None = None
    cloudflare_url: str = CLOUDFLARE_URL
    cloudflare_account_id: str | None = None
    cloudflare_api_token: SecretStr | None = None
    page: str | None = None
    few_retries: bool = False
    nodes_reach_records: bool = False

    def kelpie(self) -> Kelpie:
        """The client for Kelpie."""
        client: Kelpie = self._client(Kelpie, self.kelpie_url, self.api_key, self.organization, self.project)
        return client

    def salad(self) -> Salad:
        """The client for SaladCloud."""
        client: Salad = self._client(Salad, self.salad_url, self.api_key, self.organization, self.project)
        return client

    def storage(self, bucket: str) -> Storage:
        """The client for a bucket. Raises BadInput if the endpoint's address contains the bucket."""
        if finding := endpoint_finding(self.s3_endpoint, bucket):
            raise BadInput([finding])
        keys = (self.s3_access_key_id, self.s3_secret_access_key, self.s3_session_token)
        client: Storage = self._client(Storage, self.s3_endpoint, self.s3_region, *keys, bucket)
        return client

    def cloudflare(self) -> Cloudflare:
        """The client for Cloudflare. Raises BadInput if the stack has no Cloudflare account."""
        account, token = self.cloudflare_account_id, self.cloudflare_api_token
        if account is None or token is None:
            raise BadInput(["storage.kind r2 needs CLOUDFLARE_ACCOUNT_ID and CLOUDFLARE_API_TOKEN; set both"])
        client: Cloudflare = self._client(Cloudflare, self.cloudflare_url, account, token)
        return client

    def check_alive(self) -> None:
        """Raise Unavailable if the local cloud does not answer. Asks nothing of SaladCloud."""
        if self.page is None:
            return
        try:
            httpx.get(self.page, timeout=5, verify=trusted_certificates(trust_env=False), trust_env=False)
        except httpx.HTTPError as failure:
            raise Unavailable(
                f"the local cloud does not answer at {self.page} ({failure})", "", IF_LOCAL_DOWN
            ) from None

    def _client(self, client: Callable[..., Any], *args: object) -> Any:
        local = self.cloud == "local"
        options: dict[str, Any] = {
            "if_down": IF_LOCAL_DOWN if local else "check the network and try again in a few minutes"
        }
        if self.few_retries:
            options |= {"retries": 1} if client is Storage else {"retry_policy": FEW_RETRIES}
        return _shared_client(client, *args, **options)


def connect(
    cloud: str | None,
    settings: Mapping[str, Setting],
    environ: Mapping[str, str],
    kind: str = "s3",
    stack: str = "",
) -> Connection:
    """The connection for a stack's `cloud` and its `storage.kind`. `stack` is named in messages, if it is known.

    local: read from the file that the local cloud writes (FLUX_LOCAL_CLOUD, or .localcloud/connection.json in the current
    folder). Keys in `environ` are ignored, so that an experiment costs nothing. salad: VARIABLES from `environ`, or else
    from the stack's `settings`. Raises BadInput naming everything that is missing.
    """
    if cloud == "local":
        return _local(Path(environ.get(LOCAL_FILE_VARIABLE) or LOCAL_FILE))
    if cloud == "salad":
        return _connect_to_salad_cloud(settings, environ, kind, stack)
    known = " or ".join(get_args(Cloud))
    fix = pulumi_command(f"config set cloud {get_args(Cloud)[0]}", stack)
    raise BadInput([f"cloud ({cloud}) must be {known}; set it with {fix}"])


def _local(path: Path) -> Connection:
    try:
        found = json.loads(path.read_bytes())
    except FileNotFoundError:
        raise Unavailable(f"the local cloud is not running (there is no {path})", "", START_LOCAL) from None
    except (OSError, ValueError) as failure:
        raise FluxError(
            f"{path} cannot be read: {type(failure).__name__}", "the local cloud writes it", START_LOCAL
        ) from None
    if not isinstance(found, Mapping) or found.get("version") != LOCAL_VERSION:
        version = found.get("version") if isinstance(found, Mapping) else None
        raise FluxError(
            f"{path} was written by a local cloud of another version ({version})",
            f"this program supports version {LOCAL_VERSION}",
            "stop the local cloud and start it again with `make cloud`",
        )
    try:
        storage, salad = found["s3"], found["salad"]
        # Older local clouds have no fake Cloudflare API.
        cloudflare = found.get("cloudflare") or {"url": CLOUDFLARE_URL}
        return Connection(
            cloud="local",
            page=found["page"],
            kelpie_url=found["kelpie"]["url"],
            salad_url=salad["url"],
            api_key=salad["api_key"],
            organization=salad["organization"],
            project=salad["project"],
            s3_endpoint=storage["url"],
            s3_region=storage["region"],
            s3_access_key_id=storage["access_key_id"],
            s3_secret_access_key=storage["secret_access_key"],
            cloudflare_url=cloudflare["url"],
            cloudflare_account_id=cloudflare.get("account_id"),
            cloudflare_api_token=cloudflare.get("api_token"),
        )
    except (KeyError, TypeError, ValidationError) as failure:
        # Do not show pydantic's message: it would quote the keys.
        raise FluxError(
            f"{path} is incomplete ({type(failure).__name__})", "the local cloud writes it", START_LOCAL
        ) from None


def parse_storage_kind(setting: str | None) -> str:
    """`kind` of the stack's `storage`, which Pulumi passes as JSON. Invalid JSON is reported elsewhere."""
    try:
        found = json.loads(setting or "{}")
    except ValueError:
        return "s3"
    return str(found.get("kind", "s3")) if isinstance(found, Mapping) else "s3"


def with_node_access_to_records(connection: Connection, storage: str | None) -> Connection:
    """`storage`: the stack's setting as Pulumi passes it. Of an invalid one, which is reported elsewhere, the worst is assumed."""
    try:
        settings = StorageSettings.model_validate_json(storage or "{}")
        reach = nodes_reach_records(
            settings, connection.cloud, has_own_keys=connection.node_access_key_id is not None
        )
    except ValidationError:
        reach = True
    return connection.model_copy(update={"nodes_reach_records": reach})


def _connect_to_salad_cloud(
    settings: Mapping[str, Setting], environ: Mapping[str, str], kind: str, stack: str
) -> Connection:
    given = {name: _text(environ.get(name)) or _text(settings.get(key)) for name, key in VARIABLES.items()}
    if findings := _placeholder_findings(given, stack):
        raise BadInput(findings + _missing_settings(given, kind, stack))
    session = ""
    if kind == "aws":
        given["FLUX_S3_REGION"] = given["FLUX_S3_REGION"] or _text(environ.get("AWS_REGION"))
        given["FLUX_S3_ENDPOINT_URL"] = ""
        # Take all keys from one source only: a key is refused together with the secret or session token of another set.
        if not any(given[name] for name in AWS_KEYS):
            given |= {name: _text(environ.get(theirs)) for name, theirs in AWS_KEYS.items()}
            session = _text(environ.get("AWS_SESSION_TOKEN"))
    if kind == "r2" and not given["FLUX_S3_ENDPOINT_URL"] and given["CLOUDFLARE_ACCOUNT_ID"]:
        given["FLUX_S3_ENDPOINT_URL"] = f"https://{given['CLOUDFLARE_ACCOUNT_ID']}.r2.cloudflarestorage.com"
    addresses = {
        "SALAD_API_URL": _text(environ.get("SALAD_API_URL")) or SALAD_URL,
        "KELPIE_API_URL": _text(environ.get("KELPIE_API_URL")) or KELPIE_URL,
        "CLOUDFLARE_API_URL": _text(environ.get("CLOUDFLARE_API_URL")) or CLOUDFLARE_URL,
        "FLUX_S3_ENDPOINT_URL": given["FLUX_S3_ENDPOINT_URL"],
    }
    findings = _missing_settings(given, kind, stack) + _invalid_header_findings(given)
    findings += [
        f"{name} ({url}) must begin with https:// or http:// and a host; correct it"
        for name, url in addresses.items()
        if url and not _is_address(url)
    ]
    if findings:
        raise BadInput(findings)
    return Connection(
        cloud="salad",
        kelpie_url=addresses["KELPIE_API_URL"],
        salad_url=addresses["SALAD_API_URL"],
        api_key=SecretStr(given["SALAD_API_KEY"]),
        organization=given["SALAD_ORGANIZATION"],
        project=given["SALAD_PROJECT"],
        s3_endpoint=given["FLUX_S3_ENDPOINT_URL"] or None,
        s3_region=given["FLUX_S3_REGION"] or "auto",
        s3_access_key_id=given["FLUX_S3_ACCESS_KEY_ID"],
        s3_secret_access_key=SecretStr(given["FLUX_S3_SECRET_ACCESS_KEY"]),
        s3_session_token=SecretStr(session) if session else None,
        node_access_key_id=given["FLUX_NODE_ACCESS_KEY_ID"] or None,
        node_secret_access_key=_secret(given["FLUX_NODE_SECRET_ACCESS_KEY"]),
        cloudflare_url=addresses["CLOUDFLARE_API_URL"],
        cloudflare_account_id=given["CLOUDFLARE_ACCOUNT_ID"] or None,
        cloudflare_api_token=_secret(given["CLOUDFLARE_API_TOKEN"]),
    )


def _secret(text: str) -> SecretStr | None:
    return SecretStr(text) if text else None


def endpoint_finding(endpoint: str | None, bucket: str) -> str:
    """What is wrong with an endpoint that is more than the address of the service, as some consoles show it; empty if nothing is."""
    if not endpoint:
        return ""
    url = httpx.URL(endpoint)
    if url.userinfo:
        # Do not show the address: it may contain a secret.
        return (
            "FLUX_S3_ENDPOINT_URL contains a user name or password; keys have settings of their own, and an address is shown in messages; set it "
            f"to {url.scheme}://{url.netloc.decode()}, and the keys in FLUX_S3_ACCESS_KEY_ID and FLUX_S3_SECRET_ACCESS_KEY"
        )
    if url.host.endswith(PAGES):
        return (
            f"FLUX_S3_ENDPOINT_URL ({endpoint}) is a web page or serves only public downloads; uploads need the S3 API; set it to "
            "https://ACCOUNT.r2.cloudflarestorage.com with your account's id in place of ACCOUNT"
        )
    host, path = _strip_bucket_from_address(url.host, url.path.strip("/"), bucket)
    if (host, path) == (url.host, url.path.strip("/")) and not url.query and not url.fragment:
        return ""
    right = str(url.copy_with(host=host, path=f"/{path}", query=None, fragment=None)).rstrip("/")
    return (
        f"FLUX_S3_ENDPOINT_URL ({endpoint}) contains a bucket, a folder or parameters; it must be the address of the service alone, since the bucket is "
        f"set in storage.bucket; set it to {right}"
    )


def _strip_bucket_from_address(host: str, path: str, bucket: str) -> tuple[str, str]:
    """Host and path of a service, of those of a bucket or of a folder in it."""
    service = host.removeprefix(f"{bucket}.")
    # Only known services are called by the bucket's name: the host of a user's own server may begin with it by chance.
    if service.endswith(WITHOUT_PATH):
        return service, ""
    parts = path.split("/")
    return host, "/".join(parts[: parts.index(bucket)]).rstrip("/") if bucket in parts else path


def _placeholder_findings(given: Mapping[str, str], stack: str) -> list[str]:
    """One finding for each value that was left as the example has it."""
    file = f"Pulumi.{stack}.yaml" if stack else "the stack file"
    return [
        f"{VARIABLES[name]} is still the placeholder {PLACEHOLDER}; write your own value into {file} "
        f"(docs/production.md says where it is shown), or `export {name}=…`"
        for name, value in given.items()
        if PLACEHOLDER in value
    ]


def _missing_settings(given: Mapping[str, str], kind: str, stack: str) -> list[str]:
    """One finding for each missing setting. AWS needs a region instead of an endpoint."""
    needed = list(ALWAYS_NEEDED)
    if kind == "r2":
        needed += ["CLOUDFLARE_ACCOUNT_ID", "CLOUDFLARE_API_TOKEN"]
    elif kind == "aws":
        needed += ["FLUX_S3_REGION"] if given["FLUX_S3_REGION"] in ("", "auto") else []
    elif given["FLUX_S3_REGION"] in ("", "auto"):
        needed += ["FLUX_S3_ENDPOINT_URL"]
    pair = ("FLUX_NODE_ACCESS_KEY_ID", "FLUX_NODE_SECRET_ACCESS_KEY")
    if any(given[name] for name in pair):
        needed += pair
    # Report missing settings in the order in which the documentation lists them.
    return [
        _is_missing(name, key, stack)
        for name, key in VARIABLES.items()
        if name in needed and (not given[name] or given[name] == "auto")
    ]


def _is_missing(name: str, key: str, stack: str) -> str:
    if key in SECRET_SETTINGS:
        # Neither of these ways leaves the key in the shell's history.
        fix = f"`read -rs {name} && export {name}`"
        create, store = (
            pulumi_command(f"stack select --create {stack}"),
            pulumi_command(f"config set --secret {key}", stack),
        )
        return f"{name} is missing; set it with {fix}, or store it encrypted with {create} and {store}, which asks for it"
    return f"{name} is missing; `export {name}=…`, or run {pulumi_command(f'config set {key} …', stack)}"


def _invalid_header_findings(given: Mapping[str, str]) -> list[str]:
    """One finding for each value that no HTTP header can hold. The value is not shown, as most are keys."""
    return [
        f"{name} contains a space, a line break or a non-ASCII character; copy it again"
        for name, value in given.items()
        if not all("!" <= character <= "~" for character in value)
    ]


def _text(value: Setting) -> str:
    plain = value.get_secret_value() if isinstance(value, SecretStr) else value
    return (plain or "").strip()


def _is_address(url: str) -> bool:
    try:
        parsed = httpx.URL(url)
    except httpx.InvalidURL:
        return False
    is_port = parsed.port is None or 0 < parsed.port < 65536
    return parsed.scheme in ("http", "https") and bool(parsed.host) and is_port


@functools.cache
def _shared_client(client: Callable[..., Any], *args: object, **options: object) -> Any:
    """One client for each connection, shared by its threads."""
    return client(*args, **options)
