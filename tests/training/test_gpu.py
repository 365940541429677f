"""Choosing a GPU by name, by memory, or the cheapest that fits."""

from typing import Any

import pytest

from flux_training.training.cluster_settings import ClusterSettings
from flux_training.training.errors import BadInput
from flux_training.training.gpu import (
    Offer,
    check_condition,
    choose_gpu,
    gpu_model_of,
    gpu_names_in_setting,
    is_gpu_name,
    memory_gb,
    memory_needed,
    smallest_class,
)
from flux_training.training.train_yml.document import rank_of
from flux_training.training.values import whole_number

OFFERS = [
    Offer("a", "RTX 5090 (32 GB)", 32, 0.45),
    Offer("b", "RTX 4090 (24 GB)", 24, 0.30),
    Offer("c", "RTX 3090 (24 GB)", 24, 0.23),
    Offer("d", "RTX 3060 (12 GB)", 12, 0.04),
    Offer("e", "Mystery", None, 0.01),
]
HOURS = {"a": 1.0, "b": 1.27, "c": 2.94, "d": 8.3}


def hours_on(offer: Offer) -> float | None:
    return HOURS.get(offer.id)


def chosen(wanted: str, need: int = 24, kept: str | None = None, offers: list[Offer] = OFFERS) -> str:
    return choose_gpu(wanted, need, offers, hours_on, kept).id


@pytest.mark.parametrize(
    ("name", "model"),
    [
        ("RTX 5090 (32 GB)", "RTX 5090"),
        ("NVIDIA GeForce RTX 5090, 32607 MiB", "RTX 5090"),
        ("rtx 4070 ti super (16 GB)", "RTX 4070 Ti Super"),
        ("NVIDIA RTX A5000, 24564 MiB", "RTX A5000"),
        ("RTX 3090 Ti (24 GB)", "RTX 3090 Ti"),
        ("A100 (80 GB)", "A100"),
        ("Radeon  Pro 9 (32 GB)", "Radeon Pro 9"),
        ("L40S, 46068 MiB", "L40S"),
        ("", ""),
    ],
)
def test_gpu_models_are_recognized_in_names(name: str, model: str) -> None:
    assert gpu_model_of(name) == model


def test_fastest_means_the_least_time_at_any_price() -> None:
    offers = [
        Offer("slow", "RTX 3090", 24, 0.01),
        Offer("fast", "RTX 5090", 32, 9.0),
        Offer("small", "X", 12, 0.1),
    ]
    hours = {"slow": 4.0, "fast": 1.0, "small": 0.1}
    assert choose_gpu("fastest", 24, offers, lambda offer: hours[offer.id], None).id == "fast"


def test_of_several_classes_the_least_memory_counts() -> None:
    assert gpu_names_in_setting("RTX 5090, RTX 4090") == ["RTX 5090", "RTX 4090"]
    assert memory_gb("RTX 5090, RTX 4090") == 24
    assert memory_gb("RTX 5090, RTX 9999") == 32
    assert smallest_class("RTX 5090, RTX 3060") == "RTX 3060"


def test_a_class_that_is_listed_twice_counts_once() -> None:
    assert (
        ClusterSettings.model_validate({"gpu": ["RTX 5090", "rtx 5090 ", "RTX 4090"]}).gpu
        == "RTX 5090, RTX 4090"
    )


def test_cheapest_means_lowest_cost_of_the_work() -> None:
    assert chosen("cheapest") == "b"
    assert chosen(">= 32 GB") == "a"
    assert chosen(">=12gb") == "d"
    assert chosen("Cheapest", need=32) == "a"


def test_ties_are_broken_by_name() -> None:
    offers = [Offer("z", "RTX 4090 Z (24 GB)", 24, 1.0), Offer("y", "RTX 4090 Y (24 GB)", 24, 1.0)]
    assert choose_gpu("cheapest", 24, offers, lambda _: 1.0, None).id == "y"
    # With equal name and price the first class is chosen.
    twins = [Offer("2", "RTX 4090 (24 GB)", 24, 1.0), Offer("1", "RTX 4090 (24 GB)", 24, 1.0)]
    assert choose_gpu("cheapest", 24, twins, lambda _: 1.0, None).id == "2"


def test_the_present_class_is_kept_while_it_meets_the_condition() -> None:
    dearer = [Offer("b", "RTX 4090 (24 GB)", 24, 99.0), *(offer for offer in OFFERS if offer.id != "b")]
    assert chosen(">= 24 GB", kept="b", offers=dearer) == "b"
    assert chosen(">= 32 GB", kept="b", offers=dearer) == "a"
    assert chosen(">= 24 GB", kept=None, offers=dearer) == "a"


LARGE = [Offer("x", "RTX 7090 (48 GB)", 48, 0.1), Offer("y", "RTX 7080 (48 GB)", 48, None)]


@pytest.mark.parametrize(
    ("wanted", "offers", "words"),
    [
        (
            ">= 64 GB",
            OFFERS,
            "cluster.gpu (`>= 64 GB`): no GPU class with at least 64 GB is available; available: Mystery, RTX 3060 (12 GB), RTX 3090 (24 GB), "
            "RTX 4090 (24 GB), RTX 5090 (32 GB); require less memory, or set `quantize: true` in train.yml",
        ),
        (
            "cheapest",
            LARGE,
            "cluster.gpu (`cheapest`): RTX 7090 (48 GB), RTX 7080 (48 GB) would fit, but price or speed is unknown; "
            "set one of them by name",
        ),
        (
            "cheapest",
            [],
            "cluster.gpu (`cheapest`): no GPU class with at least 24 GB is available; available: none; require less memory, or set "
            "`quantize: true` in train.yml",
        ),
    ],
)
def test_the_error_lists_what_is_available(wanted: str, offers: list[Offer], words: str) -> None:
    with pytest.raises(BadInput) as error:
        choose_gpu(wanted, 24, offers, hours_on, None)
    assert error.value.findings == [words]


@pytest.mark.parametrize("wanted", ["> 24 GB", ">= 24", ">= 0 GB", "= 24 GB", "<= 24 GB", ">= many GB"])
def test_invalid_conditions_are_rejected(wanted: str) -> None:
    with pytest.raises(ValueError, match="is not a known condition"):
        check_condition(wanted)


@pytest.mark.parametrize(
    "wanted", ["RTX 5090", ">= 24 GB", " >= 24 GB", ">=24gb", "cheapest", " Cheapest ", "fastest"]
)
def test_names_and_conditions_are_distinguished(wanted: str) -> None:
    check_condition(wanted)
    assert is_gpu_name(wanted) == ("RTX" in wanted)


def config(**process: Any) -> dict[str, Any]:
    return {"config": {"process": [process]}}


@pytest.mark.parametrize(
    ("path", "in_image", "quantized", "unquantized"),
    [
        ("/model", "Wan-AI/Wan2.1-T2V-1.3B-Diffusers", 16, 24),
        ("/model", "Wan-AI/Wan2.1-T2V-14B-Diffusers", 24, 60),
        ("Wan-AI/Wan2.1-T2V-1.3B-Diffusers", "", 16, 24),
        # Of 1.3 or 14 billion parameters: nobody knows.
        ("/model", "", 24, 60),
        ("/model", "me/fine-tune-of-wan", 24, 60),
        ("me/fine-tune-of-wan", "", 24, 60),
    ],
)
def test_memory_needed_by_weights(path: str, in_image: str, quantized: int, unquantized: int) -> None:
    model = {"arch": "wan21", "name_or_path": path}
    assert memory_needed(config(model=model | {"quantize": True}), in_image) == quantized
    assert memory_needed(config(model=model), in_image) == unquantized


@pytest.mark.parametrize(
    ("document", "memory"),
    [
        (config(model={"quantize": True}), 24),
        (config(model={"quantize": True}, train={"batch_size": 2}), 24),
        (config(model={"quantize": True}, datasets=[{"resolution": [512, 1536]}]), 24),
        (config(model={"quantize": True}, train={"batch_size": 3}, datasets=[{"resolution": 1024}]), 40),
        # One image of 1024 x 1024 is one megapixel.
        (config(model={"quantize": True}, train={"batch_size": 2}, datasets=[{"resolution": 1024}]), 32),
        (config(model={"quantize": True}, train={"batch_size": 2}, datasets=[{"resolution": 1025}]), 40),
        (config(model={"quantize": True}, train={"batch_size": 1}, datasets=[{"resolution": 2048}]), 24),
        (config(model={"quantize": True}, train={"batch_size": 4}, datasets=[{"resolution": 512}]), 24),
        (config(model={"quantize": True}, train={"batch_size": 5}, datasets=[{"resolution": 512}]), 32),
        (config(model={"quantize": True}, train={"batch_size": 5}, datasets=[{}]), 32),
        (config(model={"quantize": True}, train={"batch_size": 5}, datasets=[{"resolution": "x"}, 7]), 32),
        (config(model={"quantize": True}, train={"batch_size": 5}, datasets="x"), 32),
        # The default resolution is 512: four images are one megapixel.
        (config(model={"quantize": True}, train={"batch_size": 4}, datasets=[{}]), 24),
        (config(model={"quantize": True}, train={"batch_size": 4}, datasets=[{"resolution": "x"}]), 24),
        (config(model={"quantize": False}), 48),
        ({"config": {"process": {"0": 1}}}, 48),
        ({"config": {"process": []}}, 48),
        ({}, 48),
    ],
)
def test_memory_needed_by_a_train_yml(document: dict[str, Any], memory: int) -> None:
    assert memory_needed(document) == memory


@pytest.mark.parametrize(
    ("value", "read"),
    [(1, 1), (10**9, 10**9), (0, 7), (-1, 7), (10**9 + 1, 7), (True, 7), (1.0, 7), ("1", 7), (None, 7)],
)
def test_invalid_whole_numbers_become_the_default(value: object, read: int) -> None:
    assert whole_number(value, 7) == read


@pytest.mark.parametrize(
    ("network", "rank"),
    [({}, 4), ({"linear": 8}, 8), ({"rank": 16, "linear": 8}, 16), ({"rank": 0, "linear": 8}, 8), ("x", 4)],
)
def test_rank_is_read_as_ai_toolkit_reads_it(network: object, rank: int) -> None:
    assert rank_of({"network": network}) == rank
