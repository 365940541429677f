"""`flux models`, and `flux new` for models other than the default."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import rich_click as click

from flux_training.commands.jobs import models as models_command
from flux_training.commands.jobs.models import models
from flux_training.commands.jobs.new import new
from flux_training.commands.plan.command import describe_download_cost
from flux_training.training.bill import FREE
from flux_training.training.errors import BadInput
from flux_training.training.estimates.model_offers import offer_for
from flux_training.training.gpu import Offer
from flux_training.training.models.table import MODELS
from tests.support.flux import make_checkout
from tests.support.photos import photo

Run = Callable[..., str]
LONG_NAME = Offer("d", "RTX 4070 Ti Super (16 GB)", 16, 0.05)
OFFERS = [
    Offer("a", "RTX 4090 (24 GB)", 24, 0.3),
    Offer("b", "RTX 5090 (32 GB)", 32, 0.6),
    Offer("c", "X", None, 0.1),
]


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    root = make_checkout(tmp_path / "checkout")
    monkeypatch.chdir(root)
    return root


def pairs(folder: Path, count: int = 2) -> tuple[Path, Path]:
    """Folders of photos and of control images with the same names."""
    for number in range(count):
        for kind in ("after", "before"):
            (folder / kind).mkdir(exist_ok=True)
            photo(number + (100 if kind == "before" else 0)).save(folder / kind / f"p{number}.png")
    return folder / "after", folder / "before"


def test_the_cheapest_class_with_enough_memory_is_chosen() -> None:
    found = offer_for(MODELS["qwen-image-edit"], OFFERS, "high")
    assert (found.memory, found.gpu) == (32, OFFERS[1])
    assert offer_for(MODELS["flux1-dev"], OFFERS, "high").gpu == OFFERS[0]


def test_weights_that_the_image_lacks_are_downloaded_at_the_users_cost() -> None:
    held, lacking = (
        offer_for(MODELS["qwen-image"], OFFERS, "high", is_in_image).line for is_in_image in (True, False)
    )
    assert held is not None
    assert lacking is not None
    # 57 GB at 40 Mbit/s take three hours.
    assert 2.5 * 3600 < (lacking.seconds or 0) - (held.seconds or 0) < 4.5 * 3600
    assert any("57 GB downloaded" in part.what for part in lacking.parts)


def test_the_plan_says_which_way_is_cheaper() -> None:
    words = describe_download_cost(57.4, 0.3)
    assert words.startswith("; each new node downloads 57 GB first, for about $0.96; cheaper: an image")
    assert describe_download_cost(0, 0.3) == describe_download_cost(57.4, None) == ""


def test_a_model_that_fits_no_class_has_no_price() -> None:
    found = offer_for(MODELS["hidream"], OFFERS, "high")
    assert (found.gpu, found.line) == (None, None)


def test_the_table_fits_eighty_columns(checkout: Path, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    del checkout
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setattr(models_command, "_offers", lambda _stack, _priority: ([*OFFERS, LONG_NAME], ""))
    lines = run(models).splitlines()
    table = lines[: len(MODELS) + 1]
    assert [line.split()[0] for line in table[1:]] == list(MODELS)
    assert max(map(len, table)) <= 80
    assert lines[-2:] == ["-: no GPU class on offer has so much memory.", FREE]
    assert all("RTX" in line and "$" in line for line in table if line.startswith("qwen-image"))


def test_without_a_cloud_the_models_are_listed_without_prices(checkout: Path, run: Run) -> None:
    del checkout
    document = json.loads(run(models, "--json"))
    assert "local cloud is not running" in document["trouble"]
    assert [(one["name"], one["usd"]) for one in document["models"]] == [(name, None) for name in MODELS]
    assert "No prices: the local cloud is not running" in run(models)


def test_control_images_get_the_names_of_their_photos(checkout: Path, tmp_path: Path, run: Run) -> None:
    after, before = pairs(tmp_path)
    run(new, "edit", "--from", after, "--control", before, "--model", "flux1-kontext", "--trigger", "clay")
    job = checkout / "jobs/edit"
    for folder in ("dataset", "control"):
        assert sorted(file.name for file in (job / folder).iterdir()) == ["00001.jpg", "00002.jpg"]
    assert 'arch: "flux_kontext"' in (job / "train.yml").read_text(encoding="utf-8")


def test_photos_and_control_images_can_be_added(checkout: Path, tmp_path: Path, run: Run) -> None:
    after, before = pairs(tmp_path)
    run(new, "edit", "--from", after, "--control", before, "--model", "flux1-kontext", "--trigger", "clay")
    pairs(tmp_path, 3)
    run(new, "edit", "--add", "--from", after, "--control", before)
    files = (checkout / "jobs/edit/control").iterdir()
    assert sorted(file.name for file in files) == ["00001.jpg", "00002.jpg", "00003.jpg"]


def test_a_missing_control_image_makes_nothing(checkout: Path, tmp_path: Path, run: Run) -> None:
    after, before = pairs(tmp_path)
    (before / "p1.png").unlink()
    with pytest.raises(BadInput, match=r"p1\.png: .* has no control image of this name, such as p1\.png"):
        run(
            new, "edit", "--from", after, "--control", before, "--model", "flux1-kontext", "--trigger", "clay"
        )
    assert not (checkout / "jobs/edit").exists()


@pytest.mark.parametrize(
    ("model", "given", "message"),
    [
        ("flux1-kontext", 0, "takes 1 control image for each photo, 0 given; give a folder"),
        ("qwen-image-edit-plus", 0, "takes 1 to 3 control images for each photo, 0 given"),
        ("qwen-image", 1, "takes 0 control images for each photo, 1 given; leave --control out"),
    ],
)
def test_the_number_of_control_folders_has_to_suit_the_model(
    checkout: Path, tmp_path: Path, run: Run, model: str, given: int, message: str
) -> None:
    del checkout
    after, before = pairs(tmp_path)
    controls = ["--control", before] * given
    with pytest.raises(BadInput, match=message):
        run(new, "edit", "--from", after, *controls, "--model", model, "--trigger", "clay")


@pytest.mark.parametrize(
    ("typed", "nearest"),
    [("qwen-imag", "qwen-image"), ("flux1", "flux1-dev"), ("fluxx1-dev", "flux1-dev"), ("sdxll", "sdxl")],
)
def test_an_unknown_model_names_the_nearest(
    checkout: Path, tmp_path: Path, run: Run, typed: str, nearest: str
) -> None:
    del checkout
    with pytest.raises(
        click.BadParameter, match=rf"no model '{typed}' \(did you mean `{nearest}`( or .*)?\?\)"
    ):
        run(new, "cat", "--from", tmp_path, "--model", typed, "--trigger", "x")


def test_an_architecture_without_a_row_is_told_from_an_unknown_model(
    checkout: Path, tmp_path: Path, run: Run
) -> None:
    del checkout
    with pytest.raises(click.BadParameter, match=r"ai-toolkit trains krea2, .* `model: \{unchecked: true\}`"):
        run(new, "cat", "--from", tmp_path, "--model", "krea2", "--trigger", "x")
