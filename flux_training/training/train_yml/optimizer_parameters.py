"""Parameters of optimizers and of schedulers of the learning rate. ai-toolkit passes them on by name (toolkit/optimizer.py, toolkit/scheduler.py).

The tables were made from the signatures of the classes and functions that it calls, and by trying wrong values (docs/trainer.md).
"""

from collections.abc import Iterator, Mapping
from typing import Any

from flux_training.training.train_yml.key_values import FaultKind, ValueFault, value_fault
from flux_training.training.train_yml.trainer_config import uses_variable
from flux_training.training.train_yml.trainer_keys import LR_SCHEDULERS, OPTIMIZERS, KeySpec, KeyType
from flux_training.training.values import mapping
from flux_training.training.words import nearest

# A message, and the section below `train` and key that it is about.
ParameterFault = tuple[str, tuple[str, str]]
# Parameters that ai-toolkit always passes to an optimizer itself; setting them again is an error.
SET_ALWAYS = ("params", "lr")
SET_WITH_EPS = (
    "adam",
    "adamw",
    "adam8",
    "adamw8",
    "adam8bit",
    "adamw8bit",
    "ademamix8bit",
    "prodigy",
    "prodigy8bit",
)
SET_OF_ADAMW8 = "decouple"
# Automagic3 checks `lr` against `min_lr` and `max_lr`, whose defaults are these.
WITH_LR_LIMITS, LR_LIMITS = "automagic3", {"min_lr": 1e-8, "max_lr": 1e3}
WITHOUT_MOMENTUM = "automagicexperiment"
NUMBERS = (KeyType.NUMBER, KeyType.INTEGER, KeyType.NUMBER_OR_LIST)
# Adafactor refuses these parameters if it also gets a learning rate, which ai-toolkit always passes.
WITHOUT_LR = ("relative_step", "warmup_init")


def parameter_faults(train: Mapping[str, Any]) -> Iterator[ParameterFault]:
    """What ai-toolkit would stop at in `optimizer_params` and `lr_scheduler_params` of a train section."""
    yield from _optimizer_faults(
        _optimizer_class(train.get("optimizer", "adamw")), mapping(train.get("optimizer_params"))
    )
    name = train.get("lr_scheduler", "constant")
    known = LR_SCHEDULERS.get(name) if isinstance(name, str) else None
    params = mapping(train.get("lr_scheduler_params"))
    yield from _faults("lr_scheduler", str(name), known, params)


def _optimizer_class(value: object) -> str:
    name = str(value).lower()
    # For names that begin with these, ai-toolkit uses the same optimizer class regardless of the rest.
    return next((start for start in ("prodigy8bit", "prodigy") if name.startswith(start)), name)


def _optimizer_faults(name: str, params: Mapping[str, Any]) -> Iterator[ParameterFault]:
    taken = {*SET_ALWAYS, *(("eps",) if name in SET_WITH_EPS else ())}
    taken |= {SET_OF_ADAMW8} if name == "adamw8" else set()
    for key in sorted(params.keys() & taken):
        message = f"ai-toolkit sets {key} of optimizer {name} itself, and stops at a second value"
        yield message, ("optimizer_params", key)
    free = {key: value for key, value in params.items() if key not in taken}
    yield from _faults("optimizer", name, OPTIMIZERS.get(name), free)
    for key in WITHOUT_LR if name == "adafactor" else ():
        if free.get(key):
            yield (
                f"{key} of adafactor excludes a learning rate, which ai-toolkit sets",
                ("optimizer_params", key),
            )
    yield from _betas(name, free)
    yield from _combinations(name, free)


def _betas(name: str, params: Mapping[str, Any]) -> Iterator[ParameterFault]:
    if "betas" not in OPTIMIZERS.get(name, {}) or "betas" not in params or uses_variable(params["betas"]):
        return
    value, counts = params["betas"], (2, 3) if name == "ademamix8bit" else (2,)
    place = ("optimizer_params", "betas")
    if not (isinstance(value, list) and len(value) in counts and all(map(_is_beta, value))):
        count = " or ".join(map(str, counts))
        yield f"betas of optimizer {name} is {value!r}: must be {count} numbers from 0 to below 1", place
    elif name == WITHOUT_MOMENTUM and value[0] != 0:
        yield f"betas of optimizer {name} is {value!r}: the first must be 0", place


def _is_beta(value: object) -> bool:
    return isinstance(value, int | float) and 0 <= value < 1


def _combinations(name: str, params: Mapping[str, Any]) -> Iterator[ParameterFault]:
    if params.get("fused") and params.get("foreach"):
        yield f"fused and foreach of optimizer {name} exclude each other", ("optimizer_params", "fused")
    low, high = (params.get(key, default) for key, default in LR_LIMITS.items())
    if (
        name == WITH_LR_LIMITS
        and isinstance(low, int | float)
        and isinstance(high, int | float)
        and low > high
    ):
        yield (
            f"min_lr of optimizer {name} is {low:g}, which is above max_lr {high:g}",
            ("optimizer_params", "min_lr"),
        )


def _faults(
    kind: str, name: str, known: Mapping[str, KeySpec] | None, params: Mapping[str, Any]
) -> Iterator[ParameterFault]:
    for key, value in params.items() if known is not None else ():
        spec = known.get(key) if known else None
        fault = _fault(spec, value, params) if spec else None
        if spec is None:
            yield f"{kind} {name} has no parameter {key}{nearest(key, known or ())}", (f"{kind}_params", key)
        elif fault:
            yield f"{key} of {kind} {name} is {value!r}: {fault.rule}", (f"{kind}_params", key)


def _fault(spec: KeySpec, value: Any, params: Mapping[str, Any]) -> ValueFault | None:
    if uses_variable(value):
        return None
    if isinstance(value, bool) and spec.type in NUMBERS:
        return ValueFault(FaultKind.MISREAD, "must be a number: ai-toolkit takes true for 1, or stops")
    return value_fault(spec, value) if spec.is_used(params, {}) else None
