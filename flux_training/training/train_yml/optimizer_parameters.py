"""Parameters of optimizers and of schedulers of the learning rate. ai-toolkit passes them on by name (toolkit/optimizer.py, toolkit/scheduler.py).

The tables were made from the signatures of the classes and functions that it calls, and by trying wrong values (docs/trainer.md).
"""

from collections.abc import Iterator, Mapping
from typing import Any

from flux_training.training.train_yml.key_values import value_fault
from flux_training.training.train_yml.trainer_keys import LR_SCHEDULERS, OPTIMIZERS, KeySpec
from flux_training.training.values import mapping
from flux_training.training.words import nearest

# (message, the key below `train` with its section)
ParameterFault = tuple[str, tuple[str, str]]
# What ai-toolkit sets itself, so that a second value is one too many.
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
# Adafactor refuses them beside a learning rate, which ai-toolkit always sets.
WITHOUT_LR = ("relative_step", "warmup_init")


def parameter_faults(train: Mapping[str, Any]) -> Iterator[ParameterFault]:
    """What ai-toolkit would stop at in `optimizer_params` and `lr_scheduler_params` of a train section."""
    yield from _optimizer_faults(
        _optimizer(train.get("optimizer", "adamw")), mapping(train.get("optimizer_params"))
    )
    name = train.get("lr_scheduler", "constant")
    known = LR_SCHEDULERS.get(name) if isinstance(name, str) else None
    params = mapping(train.get("lr_scheduler_params"))
    yield from _faults("lr_scheduler", str(name), known, params)


def _optimizer(value: object) -> str:
    name = str(value).lower()
    # Whatever follows these, ai-toolkit takes the same class.
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
    if name in OPTIMIZERS and "betas" in OPTIMIZERS[name] and "betas" in free:
        count = 3 if name == "ademamix8bit" else 2
        if not _are_betas(free["betas"], count):
            message = (
                f"betas of optimizer {name} is {free['betas']!r}: must be {count} numbers from 0 to below 1"
            )
            yield message, ("optimizer_params", "betas")


def _are_betas(value: object, count: int) -> bool:
    return (
        isinstance(value, list)
        and len(value) == count
        and all(isinstance(one, int | float) and 0 <= one < 1 for one in value)
    )


def _faults(
    kind: str, name: str, known: Mapping[str, KeySpec] | None, params: Mapping[str, Any]
) -> Iterator[ParameterFault]:
    for key, value in params.items() if known is not None else ():
        spec = known.get(key) if known else None
        fault = value_fault(spec, value) if spec else None
        if spec is None:
            yield f"{kind} {name} has no parameter {key}{nearest(key, known or ())}", (f"{kind}_params", key)
        elif fault:
            yield f"{key} of {kind} {name} is {value!r}: {fault.rule}", (f"{kind}_params", key)
