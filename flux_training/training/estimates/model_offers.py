"""What training each model costs now: the cheapest GPU class that fits it, and the price of a usual run. Pure."""

from collections.abc import Sequence
from dataclasses import dataclass

from flux_training.training.cost import CLOUDS, Line, Rate, Work, line_for
from flux_training.training.errors import BadInput
from flux_training.training.estimates.workload import workload_of
from flux_training.training.gpu import CHEAPEST, TFLOPS, Offer, choose_gpu, memory_needed
from flux_training.training.models.table import TrainableModel
from flux_training.training.train_yml.templates import recommended_document

# A typical run: the number of steps, and the size of a dataset of photos imported by `flux new`.
USUAL_STEPS = 2000
USUAL_IMAGES = 20
BYTES_PER_IMAGE = 1_000_000


@dataclass(frozen=True)
class ModelOffer:
    """`memory`: GB of GPU memory that the model's template needs. `gpu` and `line` are None if no class on offer fits."""

    model: TrainableModel
    memory: int
    gpu: Offer | None = None
    line: Line | None = None


def offer_for(
    model: TrainableModel, offers: Sequence[Offer], priority: str, is_in_image: bool = False
) -> ModelOffer:
    """The GPU class on which a usual run of the model's template costs least. Unless `is_in_image`, with the download of its weights."""
    document = recommended_document(model, USUAL_STEPS, is_in_image)
    memory = memory_needed(document, model.weights)
    work = Work(
        model.name,
        USUAL_STEPS,
        workload_of(document),
        USUAL_IMAGES * BYTES_PER_IMAGE,
        images=USUAL_IMAGES,
    )

    def line_on(offer: Offer) -> Line:
        return line_for(work, Rate(offer.name, priority, offer.usd_an_hour), (), TFLOPS, CLOUDS["salad"])

    def hours_on(offer: Offer) -> float | None:
        seconds = line_on(offer).seconds
        return None if seconds is None else seconds / 3600

    try:
        gpu = choose_gpu(CHEAPEST, memory, offers, hours_on, kept=None)
    except BadInput:
        return ModelOffer(model, memory)
    return ModelOffer(model, memory, gpu, line_on(gpu))
