"""Which model a train.yml names, as ai-toolkit reads its `model` section (ModelConfig in toolkit/config_modules.py)."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from flux_training.training.models.table import DEFAULT_MODEL, MODELS, TrainableModel
from flux_training.training.values import mapping

# The folder of a container image that contains the model's weights.
MODEL_FOLDER = "/model"
# If `model.arch` is not set, ai-toolkit looks for these keys in this order to choose the architecture.
ARCH_OF_FLAG = {
    "is_v2": "sd2",
    "is_v3": "sd3",
    "is_xl": "sdxl",
    "is_pixart": "pixart",
    "is_pixart_sigma": "pixart_sigma",
    "is_auraflow": "auraflow",
    "is_flux": "flux",
    "is_lumina2": "lumina2",
    "is_vega": "vega",
    "is_ssd": "ssd",
}
DEFAULT_ARCH = "sd1"
MAX_MODEL_NAME = 100


@dataclass(frozen=True)
class ModelPolicy:
    """What a stack says about models. `weights_in_image`: the id of what `/model` holds; empty if unknown.

    `unchecked`: the job may train an architecture that the table lacks. `commercial`: only models that may be used commercially.
    `storage`: GB of disk on a node; None if unknown.
    """

    weights_in_image: str = MODELS[DEFAULT_MODEL].weights
    unchecked: bool = False
    commercial: bool = False
    storage: int | None = None


DEFAULT_POLICY = ModelPolicy()


@dataclass(frozen=True)
class ModelChoice:
    """`arch`: how ai-toolkit loads it. `key`: the key that says so, empty if none does. `weights`: an id or path; empty if unknown.

    `model` is the row of the weights, or the first row of the architecture for weights that the table does not know; None if there is
    no row.
    """

    arch: str
    key: str
    weights: str
    model: TrainableModel | None

    @property
    def owner(self) -> TrainableModel | None:
        """The model whose weights these are; None if the table does not know them."""
        return model_with_weights(self.weights)

    @property
    def possible_models(self) -> list[TrainableModel]:
        """The model of the weights; all models of the architecture if the table does not know them."""
        return [self.model] if self.model and self.owner else models_of_architecture(self.arch)


def choose_model(section: Mapping[str, Any], weights_in_image: str = "") -> ModelChoice:
    """The model of a train.yml's `model` section. `weights_in_image`: the id of what `/model` holds; empty if unknown."""
    arch, key = _arch(section)
    path = section.get("name_or_path")
    path = path if isinstance(path, str) else ""
    weights = weights_in_image if is_in_image(path) else path
    rows = models_of_architecture(arch)
    exact = next((row for row in rows if row.has_weights(weights)), None)
    return ModelChoice(arch, key, weights, exact or next(iter(rows), None))


def downloaded_gb(section: Mapping[str, Any]) -> float:
    """The weights that each new node downloads from Hugging Face, in GB; 0 if the image holds them or their size is unknown."""
    choice = choose_model(section)
    is_known = choice.weights != "" and not is_in_image(str(section.get("name_or_path")))
    return choice.model.download_gb(choice.weights) if is_known and choice.key and choice.model else 0.0


def describe_model(section: Any, weights_in_image: str) -> str:
    """`FLUX.1-dev (FLUX Non-Commercial License)`: the model of a `model` section, with its licence where the table knows it."""
    path = str(mapping(section).get("name_or_path"))
    if is_in_image(path) and not weights_in_image:
        return "the image's own weights"
    choice = choose_model(mapping(section), weights_in_image)
    name = choice.weights.rpartition("/")[2][:MAX_MODEL_NAME] or "an unknown model"
    return f"{name} ({choice.owner.licence})" if choice.owner else name


def is_in_image(path: str) -> bool:
    """Whether `model.name_or_path` is the image's own weights."""
    return path.rstrip("/") == MODEL_FOLDER


def models_of_architecture(arch: str) -> list[TrainableModel]:
    """The models that ai-toolkit loads with this architecture."""
    return [row for row in MODELS.values() if arch in row.archs]


def largest_model_of_architecture(rows: Sequence[TrainableModel]) -> TrainableModel | None:
    """The first of those with the most parameters; None if there are no rows."""
    return max(rows, key=lambda row: row.billion_parameters, default=None)


def model_with_weights(weights: str) -> TrainableModel | None:
    """The model that has these weights; None if the table does not know them."""
    return next((row for row in MODELS.values() if row.has_weights(weights)), None)


def find_model(name: str) -> TrainableModel | None:
    """The model with this name in the table, or with these weights, or the first one of this architecture."""
    return (
        MODELS.get(name.lower())
        or model_with_weights(name)
        or next(iter(models_of_architecture(name.lower())), None)
    )


def _arch(section: Mapping[str, Any]) -> tuple[str, str]:
    """(architecture, the key that names it). The trainer's web page adds a variant after a colon: `wan21:14b`."""
    if (arch := section.get("arch")) is not None:
        return str(arch).split(":")[0], "arch"
    return next(
        ((arch, flag) for flag, arch in ARCH_OF_FLAG.items() if section.get(flag)), (DEFAULT_ARCH, "")
    )
