"""Parameters of optimizers and schedulers that ai-toolkit stops at. Each case was tried with the real trainer (docs/trainer.md)."""

from typing import Any

import pytest

from flux_training.training.train_yml.optimizer_parameters import parameter_faults
from flux_training.training.train_yml.trainer_keys import LR_SCHEDULERS, OPTIMIZERS, TRAINER_KEYS


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
