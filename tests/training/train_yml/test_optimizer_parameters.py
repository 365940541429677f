"""Parameters of optimizers and schedulers that ai-toolkit stops at. Each case was tried with the real trainer (docs/trainer.md)."""

import json
from pathlib import Path
from typing import Any

import pytest

from flux_training.training.train_yml.optimizer_parameters import NUMBERS, parameter_faults
from flux_training.training.train_yml.trainer_keys import LR_SCHEDULERS, OPTIMIZERS, TRAINER_KEYS

# What ai-toolkit's optimizers and schedulers did with single values in two to six steps on a CPU, by parameter.
TRIALS = json.loads(Path(__file__).with_name("parameter_trials.json").read_text(encoding="utf-8"))
# These failed only where they were tried.
FAILS_BY_CHANCE = {
    "capturable": "it needs parameters on a GPU",
    "do_paramiter_swapping": "it may swap out the only parameter of this trial",
}
RUNS_BY_CHANCE = {"t_alpha": "an empty list or section is not used", "t_beta3": "like t_alpha"}


@pytest.mark.parametrize(
    ("optimizer", "params"),
    [
        ("adamw8bit", {"weight_decay": 0.01, "betas": [0.9, 0.99]}),
        ("AdamW", {"amsgrad": True}),
        ("adafactor", {"scale_parameter": False, "relative_step": False, "warmup_init": False}),
        ("prodigyopt", {"d_coef": 1.0, "use_bias_correction": True}),
        ("automagic", {"min_lr": 1e-7}),
        ("adagrad", {"eps": 1e-8}),
        # Lint reports these names themselves.
        ("lion", {"foo": 1}),
        (5, {"foo": 1}),
    ],
)
def test_parameters_that_the_optimizer_takes_are_fine(optimizer: object, params: dict[str, Any]) -> None:
    assert list(parameter_faults({"optimizer": optimizer, "optimizer_params": params})) == []


@pytest.mark.parametrize(
    ("optimizer", "params", "message"),
    [
        ("adamw", {"foo": 1}, "optimizer adamw has no parameter foo"),
        ("adamw", {"weight_deacy": 1}, "weight_deacy (did you mean `weight_decay`?)"),
        ("adamw", {"lr": 1}, "ai-toolkit sets lr of optimizer adamw itself"),
        ("adamw", {"eps": 1e-8}, "ai-toolkit sets eps of optimizer adamw itself"),
        ("adamw8", {"decouple": True}, "ai-toolkit sets decouple of optimizer adamw8 itself"),
        ("adamw", {"weight_decay": "1e-2"}, "is '1e-2': must be a number without quotes"),
        ("adamw", {"weight_decay": -1}, "must be at least 0"),
        ("adamw", {"betas": [0.9, 1.5]}, "must be 2 numbers from 0 to below 1"),
        ("adamw", {"betas": [0.9]}, "must be 2 numbers from 0 to below 1"),
        ("adafactor", {"relative_step": True}, "excludes a learning rate"),
        ("prodigyopt", {"foo": 1}, "optimizer prodigy has no parameter foo"),
        ("automagic2", {"foo": 1}, "optimizer automagic2 has no parameter foo"),
    ],
)
def test_a_parameter_that_stops_the_trainer_is_named(
    optimizer: str, params: dict[str, Any], message: str
) -> None:
    ((found, place),) = parameter_faults({"optimizer": optimizer, "optimizer_params": params})
    assert message in found
    assert place == ("optimizer_params", *params)


@pytest.mark.parametrize(
    ("scheduler", "params", "message"),
    [
        ("cosine", {"eta_min": 1e-6}, ""),
        ("cosine", {"etamin": 0}, "lr_scheduler cosine has no parameter etamin (did you mean `eta_min`?)"),
        ("cosine", {"eta_min": "0"}, "must be a number without quotes"),
        ("constant", {"factor": 0.5}, ""),
        ("constant", {"factor": 2}, "must be at most 1"),
        ("constant", {"factor": 0}, "must be above 0"),
        ("cosine", {"total_iters": "5"}, ""),
        ("linear", {"start_factor": 0}, "must be above 0"),
        ("cosine_with_restarts", {"T_mult": 1.5}, "must be a whole number"),
        ("constant_with_warmup", {"num_warmup_steps": "10"}, "must be a number without quotes"),
        ("unknown", {"any": 1}, ""),
    ],
)
def test_parameters_of_schedulers_are_checked(scheduler: str, params: dict[str, Any], message: str) -> None:
    found = [text for text, _ in parameter_faults({"lr_scheduler": scheduler, "lr_scheduler_params": params})]
    assert len(found) == bool(message)
    assert message in "".join(found)


def test_every_choice_has_its_parameters() -> None:
    train = TRAINER_KEYS["train"]
    assert set(LR_SCHEDULERS) == set(train["lr_scheduler"].choices)
    # The packages of the others are not installed; prodigyopt is the class of prodigy.
    others = {"lion", "prodigyopt", "dadaptation", "dadaptationadam", "dadaptationlion"}
    assert set(OPTIMIZERS) == set(train["optimizer"].choices) - others


@pytest.mark.parametrize("name", TRIALS)
def test_values_are_faults_as_they_were_tried(name: str) -> None:
    """True and false are faults as numbers, although some ran: ai-toolkit takes them for 1 and 0."""
    kind, word = ("lr_scheduler", name.split()[1]) if name.startswith("scheduler ") else ("optimizer", name)
    for parameter, tried in TRIALS[name].items():
        values = [(value, verdict) for verdict in ("ran", "failed") for value in tried[verdict]]
        for value, verdict in values if parameter not in {**RUNS_BY_CHANCE, **FAILS_BY_CHANCE} else ():
            faults = list(parameter_faults({kind: word, f"{kind}_params": {parameter: value}}))
            is_number = (OPTIMIZERS | LR_SCHEDULERS)[word][parameter].type in NUMBERS
            expected = verdict == "failed" or (is_number and isinstance(value, bool))
            assert bool(faults) == expected, (parameter, value, faults)


@pytest.mark.parametrize(
    ("optimizer", "params"),
    [
        ("automagic3", {"min_lr": 0.1, "max_lr": 0.01}),
        ("automagic3", {"min_lr": 2e3}),
        ("adamw", {"fused": True, "foreach": True}),
        ("automagicexperiment", {"betas": [0.9, 0.999]}),
        ("adamw8bit", {"amsgrad": True}),
        ("adamw8bit", {"optim_bits": 8}),
    ],
)
def test_values_that_the_optimizer_refuses_are_faults(optimizer: str, params: dict[str, Any]) -> None:
    assert len(list(parameter_faults({"optimizer": optimizer, "optimizer_params": params}))) == 1


def test_values_from_a_variable_are_not_checked() -> None:
    params = {"weight_decay": "${DECAY}", "betas": "${BETAS}"}
    assert list(parameter_faults({"optimizer": "adamw", "optimizer_params": params})) == []
