"""The settings of a stack's configuration. An unknown key is an error that suggests the nearest known one.

config:
  flux-training:cloud: local
  flux-training:jobs:
    chelsea-cat: {}
    "coffee-*": {attempt: 2}
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any, Literal, get_args, get_origin

from pydantic import (
    BaseModel,
    Field,
    SecretStr,
    ValidationError,
    field_validator,
    model_validator,
)
from pydantic.alias_generators import to_camel
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

from flux_training.training.cluster_settings import (
    DEFAULT_GROUP,
    GROUP_NAME,
    MODEL,
    BudgetSettings,
    ClusterSettings,
    StrictSettings,
)
from flux_training.training.errors import BadInput
from flux_training.training.gpu import is_gpu_name
from flux_training.training.lint.rules import RULES
from flux_training.training.setting_errors import describe_setting_error, find_misplaced_settings
from flux_training.training.values import MAX_ATTEMPT
from flux_training.training.words import nearest, with_same_last_part

BUCKET_NAME = re.compile(r"^[a-z0-9][a-z0-9-]{1,61}[a-z0-9]$")
# A cluster's name becomes part of the names of container groups and Pulumi resources.
CLUSTER_NAME = re.compile(r"^[a-z][a-z0-9-]{0,30}[a-z0-9]$")
# The cluster name used if the stack has `cluster` instead of `clusters`.
SINGLE_CLUSTER = ""

# A repository is a registry and a path without a tag, because a built image is identified by its digest.
REPOSITORY = re.compile(r"^[a-z0-9.-]+(:[0-9]+)?(/[a-z0-9._-]+)+$")
NO_SETTINGS = "is not a map of settings; write `{}` to train the job with the defaults, or `{skip: true}` to leave it out"
R2_ONLY = {"location", "credentials", "credential_hours"}


class LintSettings(StrictSettings):
    """`silence`: lint rules to ignore for this job (docs/lint.md), each with the reason."""

    silence: dict[str, str] = Field(default_factory=dict)

    @field_validator("silence")
    @classmethod
    def _refuse_unknown_rules(cls, silence: dict[str, str]) -> dict[str, str]:
        wrong = [_why_not_silenced(code, reason) for code, reason in silence.items()]
        if any(wrong):
            raise ValueError("; ".join(filter(None, wrong)))
        return silence


class ModelSettings(StrictSettings):
    """`unchecked`: train an architecture that docs/models.md lacks, with your own image. Lint then knows nothing about its memory or settings."""

    unchecked: bool = False


class JobSettings(StrictSettings):
    """One entry of `jobs`: a folder below `jobsFolder`, or a pattern such as `cat-*`.

    `skip`: leave the job out, even if a pattern matches it (`flux cancel` sets it). `attempt`: raise it to train again although
    nothing has changed (`flux retry` does). `resume`: a new run continues from the newest valid checkpoint of the job's last run
    instead of starting over. `dataset` names another job folder whose images and captions are used. `maxHours` limits the GPU time
    of a run; `stallMinutes` is how long a run may go without a step. `webhook`: Kelpie calls it when the job starts or ends. `cluster`: the
    name of the one of the stack's `clusters` that trains the job; not needed if there is only one. `priority`: if the budget leaves
    jobs waiting, those with a higher one are queued first, and those with the same in the order of their names.
    """

    skip: bool = False
    attempt: int = Field(1, ge=1, le=MAX_ATTEMPT)
    resume: bool = False
    dataset: str | None = None
    max_hours: float | None = Field(None, gt=0)
    stall_minutes: float = Field(30, gt=0)
    webhook: str | None = Field(None, repr=False)
    cluster: str | None = None
    priority: int = 0
    lint: LintSettings = LintSettings()
    model: ModelSettings = ModelSettings()

    @model_validator(mode="before")
    @classmethod
    def _null_is_default(cls, entry: Any) -> Any:
        # `chelsea-cat:` without a value declares a job without settings. `chelsea-cat: false` is refused,
        # because it looks like the opposite.
        if entry is None:
            return {}
        if not isinstance(entry, Mapping | JobSettings):
            raise ValueError(NO_SETTINGS)
        return entry


class StorageSettings(StrictSettings):
    """`prefix` is empty or a folder inside the bucket that holds everything of this stack.

    Keys of the nodes: with r2 and `credentials: temporary`, keys for this prefix that expire after `credentialHours`; with r2 and `token`,
    keys for the bucket that are valid until revoked; with aws, keys of a user limited to this prefix; with s3, the given keys. Raise
    `rotate` to replace them (r2, aws). `location`: where R2 creates a new bucket.
    """

    kind: Literal["r2", "aws", "s3"] = "s3"
    bucket: str = Field(pattern=BUCKET_NAME.pattern)
    prefix: str = Field("", pattern=r"^/?([A-Za-z0-9._-]+/?)*$")
    location: Literal["apac", "eeur", "enam", "weur", "wnam", "oc"] | None = None
    credentials: Literal["temporary", "token"] = "temporary"
    credential_hours: int = Field(168, ge=1, le=168)
    rotate: int = Field(1, ge=1)

    @model_validator(mode="after")
    def _refuse_settings_of_other_kinds(self) -> StorageSettings:
        foreign = {"r2": set[str](), "aws": R2_ONLY, "s3": R2_ONLY | {"rotate"}}[self.kind]
        given = sorted(to_camel(name) for name in foreign & self.model_fields_set)
        if given:
            raise ValueError(
                f"{', '.join(given)} has no effect with kind {self.kind}; remove it from the stack file"
            )
        return self

    @field_validator("prefix")
    @classmethod
    def _refuse_dot_folders(cls, prefix: str) -> str:
        if {".", ".."} & set(prefix.split("/")):
            raise ValueError("must not contain `.` or `..`, because nodes use the object keys as file paths")
        return prefix

    @property
    def key_prefix(self) -> str:
        folder = self.prefix.strip("/")
        return f"{folder}/" if folder else ""


class KeepSettings(StrictSettings):
    """After how many days the bucket deletes checkpoints (with the optimizer's state) and images. Without a number: never."""

    checkpoints_days: int | None = Field(None, ge=1)
    datasets_days: int | None = Field(None, ge=1)


class ImageSettings(StrictSettings):
    """Your own container image, built from docker/ and pushed to `repository` (such as docker.io/me/flux-trainer).

    `model`: the id on Hugging Face of the weights that it holds. A cluster with a `model` of its own gets an image of its own in the same repository.
    The two digests are those of the downloaded binaries, as `sha256sum` prints them (docs/production.md).
    """

    build: bool = False
    repository: str | None = Field(None, pattern=REPOSITORY.pattern)
    model: str = Field("black-forest-labs/FLUX.1-dev", pattern=MODEL.pattern)
    kelpie_sha256: str | None = Field(None, pattern=r"^[0-9a-f]{64}$", alias="kelpieSha256")
    vscode_sha256: str | None = Field(None, pattern=r"^[0-9a-f]{64}$", alias="vscodeSha256")
    vscode_version: str = Field("latest", pattern=r"^[0-9a-z.]+$")

    @model_validator(mode="after")
    def _check_image_build(self) -> ImageSettings:
        needed = {"repository": self.repository, "kelpieSha256": self.kelpie_sha256}
        missing = [name for name, value in needed.items() if self.build and value is None]
        if missing:
            raise ValueError(
                f"`build: true` needs {' and '.join(missing)}; docs/production.md says how to get them"
            )
        return self


class DevSettings(StrictSettings):
    """One replica with a VS Code tunnel, to try things on a real GPU. You pay for it as long as `enabled` is true.

    `image` is required unless `image.build` builds it. `gpu` is the cluster's by default. With `tunnel: my-gpu` the page is
    https://vscode.dev/tunnel/my-gpu. `cluster`: with several `clusters`, the one whose name, machine and priority it takes.
    """

    enabled: bool = False
    cluster: str | None = None
    image: str | None = None
    gpu: str | None = None
    tunnel: str | None = Field(None, pattern=r"^[a-z0-9][a-z0-9-]{1,18}[a-z0-9]$")


class StackSettings(StrictSettings):
    """The whole stack. The services' keys may be set here as secrets; environment variables take precedence.

    `results`: what `destroy` does with trained weights and samples, as of the last `up`. `adopt`: take over a container group or bucket
    that exists and is not this stack's; `destroy` does not delete these. `webhook`: for all jobs without their own. `clusters`: several
    clusters by name, such as `{flux: {}, video: {gpu: "H100", image: …}}`, instead of `cluster`; each is a container group with its own
    scaling rule. `commercial`: models whose licence forbids commercial
    use are errors. `maxSteps`: trainings on the local cloud end after so many steps, whatever their train.yml says.
    """

    cloud: Literal["local", "salad"]
    storage: StorageSettings
    jobs: dict[str, JobSettings]
    jobs_folder: str = "jobs"
    cluster: ClusterSettings = ClusterSettings()
    clusters: dict[str, ClusterSettings] = Field(default_factory=dict)
    budget: BudgetSettings = BudgetSettings()
    keep: KeepSettings = KeepSettings()
    image: ImageSettings = ImageSettings()
    dev: DevSettings = DevSettings()
    adopt: bool = False
    commercial: bool = False
    max_steps: int | None = Field(None, ge=1)
    webhook: str | None = Field(None, repr=False)
    results: Literal["keep", "delete"] = "keep"
    salad_api_key: SecretStr | None = None
    salad_organization: str | None = None
    salad_project: str | None = None
    s3_endpoint_url: str | None = Field(None, repr=False)
    s3_access_key_id: str | None = Field(None, repr=False)
    s3_secret_access_key: SecretStr | None = None
    s3_region: str | None = None
    node_access_key_id: str | None = Field(None, repr=False)
    node_secret_access_key: SecretStr | None = None
    cloudflare_account_id: str | None = None
    cloudflare_api_token: SecretStr | None = None

    @model_validator(mode="after")
    def _check_clusters(self) -> StackSettings:
        fields = self.model_fields_set
        if "clusters" in fields and not self.clusters:
            raise ValueError("clusters names no cluster; add one, such as `flux: {}`, or remove `clusters`")
        if {"cluster", "clusters"} <= fields:
            names = ", ".join(self.clusters)
            raise ValueError(
                f"cluster and clusters ({names}) are both set; move the settings of `cluster` into an entry of `clusters`, such as "
                "`main: {…}`, or remove one of the two"
            )
        by_group: dict[str, list[str]] = {}
        for name, cluster in self.all_clusters.items():
            by_group.setdefault(cluster.name, []).append(name)
        shared = [
            f"the clusters {' and '.join(names)} have the same container group {group}; give each another `name`"
            for group, names in by_group.items()
            if len(names) > 1
        ]
        misnamed = [
            f"clusters: `{name}` must be 2 to 32 lower-case letters, digits and hyphens, beginning with a letter"
            for name in self.clusters
            if not CLUSTER_NAME.fullmatch(name)
        ]
        findings = [*misnamed, *shared, *filter(None, [self._describe_wrong_dev_cluster])]
        if findings:
            raise ValueError("; ".join(findings))
        return self

    @model_validator(mode="after")
    def _check_combinations(self) -> StackSettings:
        built_dev = self.dev.enabled and self.dev.image is None
        with_image = [
            f"{_key_of_cluster(name)}.image" for name, one in self.all_clusters.items() if one.has_own_image
        ]
        wrong = {
            "storage.kind aws: the local cloud does not emulate AWS; use s3 or r2": self.cloud == "local"
            and self.storage.kind == "aws",
            f"maxSteps ({self.max_steps}) is only for the local cloud; set train.steps in train.yml, or remove maxSteps": self.cloud
            != "local"
            and self.max_steps is not None,
            f"{' and '.join(with_image)} and image.build: true are incompatible; remove one": self.image.build
            and len(with_image) == len(self.all_clusters),
            "dev.enabled needs dev.image, or image.build: true to build it": built_dev
            and not self.image.build,
            "dev.enabled with image.build: true needs image.vscodeSha256": built_dev
            and self.image.build
            and self.image.vscode_sha256 is None,
            f"{_key_of_cluster(self.dev_cluster)}.name gives the dev group the name {self.dev_group_name}, which is too long; shorten it": self.dev.enabled
            and not GROUP_NAME.fullmatch(self.dev_group_name),
        }
        findings = [finding for finding, holds in wrong.items() if holds]
        if findings:
            raise ValueError("; ".join(findings))
        return self

    @model_validator(mode="after")
    def _check_models(self) -> StackSettings:
        findings = [
            f"{_key_of_cluster(name)}.model ({one.model}) says what an image of your own holds; set {_key_of_cluster(name)}.image as well, or "
            "image.build: true to build it"
            for name, one in self.all_clusters.items()
            if one.model and not one.has_own_image and not self.image.build
        ]
        model = self.image.model if "model" in self.image.model_fields_set else None
        if self.image.build and model and model not in self.built_models:
            names = " and ".join(_key_of_cluster(name) for name in self.all_clusters)
            findings.append(
                f"image.model ({model}) would not be in any image, because each of these clusters has its own model or image: {names}; remove image.model"
            )
        if findings:
            raise ValueError("; ".join(findings))
        return self

    @property
    def _describe_wrong_dev_cluster(self) -> str:
        """Empty if `dev.cluster` may be as it is."""
        given, names = self.dev.cluster, ", ".join(self.clusters)
        if given is not None and not self.clusters:
            return f"dev.cluster is `{given}`, but this stack has no `clusters`; remove it"
        if given is not None and given not in self.clusters:
            return f"dev.cluster: `{given}` is not one of the clusters{nearest(given, self.clusters)}; there are: {names}"
        if self.dev.enabled and given is None and len(self.clusters) > 1:
            return f"dev.enabled with several clusters needs dev.cluster; choose one of: {names}"
        return ""

    @property
    def all_clusters(self) -> dict[str, ClusterSettings]:
        """The stack's clusters by name, each with the name of its container group; with `cluster`, that one as SINGLE_CLUSTER."""
        if not self.clusters:
            return {SINGLE_CLUSTER: self.cluster}
        return {name: _with_group_name(name, cluster) for name, cluster in self.clusters.items()}

    @property
    def dev_cluster(self) -> str:
        """The name of the cluster whose machine the dev group takes."""
        return self.dev.cluster or next(iter(self.all_clusters))

    @property
    def dev_group_name(self) -> str:
        return f"{self.all_clusters[self.dev_cluster].name}-dev"

    def is_built(self, cluster: str) -> bool:
        """Whether the cluster uses an image that `image.build` builds."""
        return self.image.build and not self.all_clusters[cluster].has_own_image

    def built_model(self, cluster: str) -> str:
        """The id of the weights in the image that is built for a cluster, or for the dev group on the machine of a cluster."""
        own = self.all_clusters[cluster].model if self.is_built(cluster) else None
        return own or self.image.model

    @property
    def built_dev_model(self) -> str | None:
        """The id of the weights in the dev image; None if no dev image is built."""
        is_built = self.image.build and self.dev.enabled and self.dev.image is None
        return self.built_model(self.dev_cluster) if is_built else None

    @property
    def built_models(self) -> list[str]:
        """The ids of the weights for which an image is built, each once."""
        models = [self.built_model(name) for name in self.all_clusters if self.is_built(name)]
        return list(dict.fromkeys(filter(None, [*models, self.built_dev_model])))


def _key_of_cluster(cluster: str) -> str:
    """The key of a cluster's settings."""
    return f"clusters.{cluster}" if cluster else "cluster"


def _with_group_name(cluster: str, settings: ClusterSettings) -> ClusterSettings:
    if "name" in settings.model_fields_set:
        return settings
    return settings.model_copy(update={"name": f"{DEFAULT_GROUP}-{cluster}"})


def with_chosen_machines(settings: StackSettings, machines: Mapping[str, tuple[str, str]]) -> StackSettings:
    """The settings with the GPU class and the priority that were chosen for each cluster, where its settings leave a choice."""
    found = {
        name: _with_chosen_machine(cluster, *machines[name])
        for name, cluster in settings.all_clusters.items()
    }
    several = SINGLE_CLUSTER not in found
    return settings.model_copy(update={"clusters": found} if several else {"cluster": found[SINGLE_CLUSTER]})


def _with_chosen_machine(cluster: ClusterSettings, gpu: str, priority: str) -> ClusterSettings:
    named = is_gpu_name(cluster.gpu)
    return cluster.model_copy(update={"gpu": cluster.gpu if named else gpu, "priorities": (priority,)})


def parse_stack_settings(project: str, config: Mapping[str, str]) -> StackSettings:
    """Reads the project's part of Pulumi's configuration (`project:key` → text, objects as JSON).

    Raises BadInput with every finding, none of which contains a secret.
    """
    texts = {
        key.removeprefix(f"{project}:"): text for key, text in config.items() if key.startswith(f"{project}:")
    }
    values = {key: _plain(text) for key, text in texts.items()}
    findings = list(find_misplaced_settings(project, config, _settings_at([])))
    try:
        settings = StackSettings.model_validate(values)
    except ValidationError as error:
        findings += [_finding(project, details) for details in error.errors()]
        raise BadInput(findings) from None
    if findings:
        raise BadInput(findings)
    return settings


def _why_not_silenced(code: str, reason: str) -> str:
    """Empty if a job may silence the rule for this reason."""
    if code not in RULES:
        return f"`{code}` is not a lint rule{nearest(code, RULES)}; docs/lint.md lists all"
    if RULES[code].always:
        return f"`{code}` cannot be silenced: {RULES[code].always}"
    return "" if reason.strip() else f"`{code}` needs a reason; write why it does not matter here"


def _plain(text: str) -> Any:
    """Pulumi passes objects as JSON and everything else as a string."""
    if text[:1] in ("{", "["):
        try:
            return json.loads(text)
        except ValueError:
            return text
    return text


def _finding(project: str, details: ErrorDetails) -> str:
    location = [str(part) for part in details["loc"]]
    where = f"{project}:{'.'.join(location)}"
    if not location:
        return f"{project}: {details['msg'].removeprefix('Value error, ')}"
    if details["type"] == "extra_forbidden":
        known = sorted(_settings_at(location[:-1]))
        homes = [f"{one}.{location[-1]}" for one in _settings_at([]) if location[-1] in _settings_at([one])]
        near = with_same_last_part(location[-1], homes) or nearest(location[-1], known)
        return f"{where}: unknown key{near}; known keys: {', '.join(known)}"
    if details["type"] == "missing":
        return f"{where}: is missing; set it in the stack's configuration"
    value = details["input"]
    shown = f" (it is {value!r})" if isinstance(value, str | int | float) and _may_be_shown(location) else ""
    return f"{where}: {describe_setting_error(details)}{shown}"


def _may_be_shown(location: Sequence[str]) -> bool:
    """False if the value may be, or contain, a secret: maps, unknown keys, and fields with `repr=False` or of type SecretStr."""
    field = _settings_at(location[:-1]).get(location[-1])
    kinds = (field.annotation, *get_args(field.annotation)) if field and field.repr else (SecretStr,)
    return SecretStr not in kinds and not any(get_origin(kind) is dict or _is_model(kind) for kind in kinds)


def _settings_at(location: Sequence[str]) -> dict[str, FieldInfo]:
    """The settings by key below a place of the configuration; none in a map with arbitrary keys."""
    kind: Any = StackSettings
    for part in location:
        if get_origin(kind) is dict:
            kind = get_args(kind)[1]
        else:
            field = _by_key(kind).get(part)
            kind = field.annotation if field else None
    return _by_key(kind)


def _by_key(kind: Any) -> dict[str, FieldInfo]:
    fields = kind.model_fields if _is_model(kind) else {}
    return {field.alias or name: field for name, field in fields.items()}


def _is_model(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, BaseModel)
