"""The settings of a cluster and of the budget."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal, get_args

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationInfo,
    WithJsonSchema,
    field_validator,
    model_validator,
)
from pydantic.alias_generators import to_camel

from flux_training.training.gpu import SEPARATOR, check_condition, is_gpu_name

DEFAULT_GROUP = "flux-training"
PUBLIC_IMAGE = "saladtechnologies/ai-toolkit:cuda12.8-flux1-dev-kelpie"
# Users cannot set environment variables with these prefixes, because this project sets them itself.
RESERVED_VARIABLES = ("AWS_", "SALAD_PROJECT", "FLUX_")
MAX_VALUE_LENGTH = 1000
# SaladCloud requires the value of an environment variable to match `^.*$`, which excludes line breaks.
LINE_BREAK = re.compile("[\n\r\u2028\u2029]")
GROUP_NAME = re.compile(r"^[a-z][a-z0-9-]{0,61}[a-z0-9]$")
MODEL = re.compile(r"^[A-Za-z0-9._-]+/[A-Za-z0-9._-]+$")
NUMBERS = (int, float, int | None, float | None)
Priority = Literal["high", "medium", "low", "batch"]


def _as_list(value: Any) -> Any:
    """One priority, or several in the order in which they are tried."""
    found = [value] if isinstance(value, str) else value
    if not isinstance(found, list) or not found or not all(one in get_args(Priority) for one in found):
        raise ValueError("must be high, medium, low or batch, or a list of these such as `[batch, low]`")
    return list(dict.fromkeys(found))


def _gpu_names_as_text(value: Any) -> Any:
    """A list of names as one text."""
    if isinstance(value, str) and not value.strip():
        raise ValueError("is empty; write a name such as `RTX 5090`, or remove the key")
    if not isinstance(value, list):
        return value
    if not value or not all(isinstance(name, str) and name.strip() and is_gpu_name(name) for name in value):
        raise ValueError("a list of GPUs has one or more names, such as `[RTX 5090, RTX 4090]`")
    different: dict[str, str] = {}
    for name in value:
        different.setdefault(name.strip().casefold(), name.strip())
    return SEPARATOR.join(different.values())


_NAMES = {"type": "array", "items": {"type": "string"}, "minItems": 1}
_PRIORITY = {"enum": list(get_args(Priority)), "type": "string"}
_PRIORITIES = {"type": "array", "items": _PRIORITY, "minItems": 1, "uniqueItems": True}
PriorityChoice = Annotated[
    tuple[Priority, ...],
    BeforeValidator(_as_list),
    WithJsonSchema({"anyOf": [_PRIORITY, _PRIORITIES], "default": "high"}),
]
GpuChoice = Annotated[
    str, BeforeValidator(_gpu_names_as_text), WithJsonSchema({"anyOf": [{"type": "string"}, _NAMES]})
]


class StrictSettings(BaseModel):
    """Keys in camel case; an unknown one is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True, alias_generator=to_camel, populate_by_name=False)

    @field_validator("*", mode="before")
    @classmethod
    def _refuse_booleans_as_numbers(cls, value: Any, info: ValidationInfo) -> Any:
        # Without this check, pydantic would convert True to 1 for a number setting.
        if isinstance(value, bool) and cls.model_fields[str(info.field_name)].annotation in NUMBERS:
            raise ValueError("must be a number")
        return value


class ClusterSettings(StrictSettings):
    """The container group. Memory and storage are in GB; the defaults are those of SaladCloud's recipe.

    `name`: of the group; below `clusters` the default is `flux-training-` and the cluster's name. `gpu`: a name (`RTX 5090`), a list of names (`[RTX 5090, RTX 4090]`), of which each
    replica has whichever SaladCloud has available, or a condition: a minimum of GPU memory (`>= 24 GB`), `cheapest` or `fastest`. A
    condition chooses the GPU class on which the runs cost least, or end soonest for `fastest`, among those with that much memory or as
    much as the declared train.yml files need. The class stays the same while runs are unfinished or nothing is to be trained, as long
    as it satisfies the condition.
    `priority`: one, or a list such as `[batch, low]`, of which the first is used at which a node of the GPU class is free, and the last if none is. SaladCloud has
    one priority for a group, so it stays the same while runs are unfinished or nothing is to be trained.
    `autoscale`: Kelpie starts and stops replicas as jobs are queued. `idleThresholdSeconds`: how long a replica stays, and is paid
    for, after its last job. `trainerDate`: the day of ai-toolkit's commit in `image`, if that is your own; lint reports newer keys of
    train.yml, which that version ignores. `model`: the id on Hugging Face of the weights in `/model` of `image`, if that is your own; without `image`, those of
    the image that `image.build` builds for this cluster.
    `environment`: more variables of the containers; the owner of any node can read them.
    """

    name: str = Field(DEFAULT_GROUP, pattern=GROUP_NAME.pattern)
    image: str = PUBLIC_IMAGE
    gpu: GpuChoice = "RTX 5090"
    priorities: PriorityChoice = Field(default_factory=lambda: ("high",), alias="priority")
    cpu: int = Field(4, ge=1, le=16)
    memory: int = Field(30, ge=1, le=60)
    storage: int = Field(50, ge=1, le=250)
    min_replicas: int = Field(0, ge=0, le=500)
    max_replicas: int = Field(1, ge=1, le=500)
    autoscale: bool = True
    idle_threshold_seconds: int = Field(300, ge=0, le=3600)
    trainer_date: str | None = Field(None, pattern=r"^20\d\d-[01]\d-[0-3]\d$")
    model: str | None = Field(None, pattern=MODEL.pattern)
    environment: dict[str, str] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _check_replica_counts(self) -> ClusterSettings:
        # Kelpie does not check this: it accepts minReplicas above maxReplicas (docs/services.md).
        if self.min_replicas > self.max_replicas:
            raise ValueError(f"minReplicas ({self.min_replicas}) is above maxReplicas ({self.max_replicas})")
        return self

    @model_validator(mode="after")
    def _check_gpu(self) -> ClusterSettings:
        check_condition(self.gpu)
        return self

    @model_validator(mode="after")
    def _check_environment(self) -> ClusterSettings:
        taken = sorted(name for name in self.environment if name.startswith(RESERVED_VARIABLES))
        if taken:
            raise ValueError(f"environment: {', '.join(taken)} is set by this project; remove it")
        wrong = sorted(
            name
            for name, value in self.environment.items()
            if not 1 <= len(value) <= MAX_VALUE_LENGTH or LINE_BREAK.search(value)
        )
        if wrong:
            raise ValueError(
                f"environment: {', '.join(wrong)} must have 1 to {MAX_VALUE_LENGTH} characters on one line (SaladCloud's rule)"
            )
        return self

    @property
    def priority(self) -> Priority:
        """The only priority, or the first of several."""
        return self.priorities[0]

    @property
    def has_own_image(self) -> bool:
        return "image" in self.model_fields_set


class BudgetSettings(StrictSettings):
    """Limits on the estimated cost in dollars, compared with the high end of each estimate.

    `maxUsd`: all new and unfinished runs together, with the replicas' idle time after them. `maxUsdPerJob`: each of these runs. If
    one of the two is exceeded, preview and up fail before anything is created. `maxUsdPerDay` and `maxUsdPerMonth`: all runs that the
    stacks of this bucket queue in a calendar day or month (UTC); `up` queues what fits, and the other jobs wait for a later `up`.
    """

    max_usd: float | None = Field(None, ge=0, allow_inf_nan=False)
    max_usd_per_job: float | None = Field(None, ge=0, allow_inf_nan=False)
    max_usd_per_day: float | None = Field(None, ge=0, allow_inf_nan=False)
    max_usd_per_month: float | None = Field(None, ge=0, allow_inf_nan=False)

    @property
    def has_any_limit(self) -> bool:
        return any(value is not None for value in self.__dict__.values())

    @property
    def has_spending_limits(self) -> bool:
        """Whether `up` may leave jobs waiting."""
        return self.max_usd_per_day is not None or self.max_usd_per_month is not None
