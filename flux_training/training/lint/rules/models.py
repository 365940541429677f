"""Rules about the model: which one it is, where its weights come from, and the settings that it needs."""

from collections.abc import Iterator

from flux_training.training.finding import Problem
from flux_training.training.lint.registry import Area, Subject
from flux_training.training.lint.rules.options import is_number, sample_prompts
from flux_training.training.models.choice import (
    ARCH_OF_FLAG,
    DEFAULT_ARCH,
    MODEL_FOLDER,
    downloaded_gb,
    is_in_image,
)
from flux_training.training.models.table import FLOWMATCH, MODELS, TrainableModel
from flux_training.training.train_yml.document import resolutions_of
from flux_training.training.train_yml.key_values import HUB_ID
from flux_training.training.train_yml.trainer_config import positive_int
from flux_training.training.train_yml.trainer_keys import TRAINER_KEYS
from flux_training.training.words import most_similar, nearest, same_letters

AREA = Area("model")
ADAPTER_FIX = (
    "set model.assistant_lora_path to the adapter that docs/models.md has for the model, or delete it"
)
# ai-toolkit loads the architecture on the left as the one on the right (ModelConfig).
LOADED_AS = {"flex1": "flux"}
# `is_ssd` and `is_vega` select variants of SDXL, for which ai-toolkit sets `is_xl` itself.
FLAGS_OF_SDXL = {"is_xl", "is_ssd", "is_vega"}
FLAGS_OF_PIXART = {"is_pixart", "is_pixart_sigma"}
# From this date on, ai-toolkit accepts null for sample.sampler.
NO_SAMPLER_SINCE = "2026-07-27"
# ai-toolkit's default sampler and guidance (SampleConfig and TrainConfig in toolkit/config_modules.py).
DEFAULT_SAMPLER = "ddpm"
DEFAULT_MULTIPLE = 16
VIDEO_MULTIPLE = 8
MIN_RESOLUTION, MAX_RESOLUTION = 256, 1536
MAX_DISTILLED_GUIDANCE = 2
# The architectures based on BaseAudioModel (extensions_built_in/audio_models in ai-toolkit).
AUDIO_ARCHS = ("ace_step_15", "ace_step_15_xl")
# All samplers that ai-toolkit's get_sampler (toolkit/sampler.py) knows, except flowmatch.
NOISE_SAMPLERS = (
    *("ddpm", "ddim", "pndm", "lms", "k_lms", "euler", "k_euler", "euler_a", "heun", "dpm_2", "dpm_2_a"),
    *(
        "dpmsolver",
        "dpmsolver++",
        "k_dpmsolver",
        "k_dpmsolver++",
        "dpmsingle",
        "lcm",
        "custom_lcm",
        "mean_flow",
    ),
)
HUB_LOGIN = "HF_TOKEN"
OTHER_FILES_GB = 10
# The keys of train.yml that name an adapter, in the order in which ai-toolkit reads them.
ADAPTER_KEYS = ("assistant_lora_path", "inference_lora_path")
KNOWN_WEIGHTS = [name for row in MODELS.values() for name in (row.weights, *row.other_weights)]
KNOWN_ADAPTERS = [row.training_adapter for row in MODELS.values() if row.training_adapter]


@AREA.error(
    "model-unknown",
    "memory, settings and results of other architectures are unknown",
    "set model.arch to one from docs/models.md; to train another one with your own image, set model: {unchecked: true} for the job in the stack's configuration",
)
def unknown_architectures(job: Subject) -> Iterator[Problem]:
    choice = job.choice
    if job.trains and choice.arch in AUDIO_ARCHS:
        message = f"model.{choice.key} selects {choice.arch}, which trains on audio; datasets here have images and videos"
        yield job.process_problem(message, "model", choice.key)
        return
    if not job.trains or job.policy.unchecked:
        return
    if not choice.key and choice.owner is not job.model:
        message = "no key names the architecture, so ai-toolkit would load Stable Diffusion 1.5"
        owner = f"; set arch: {choice.owner.arch}" if choice.owner else ""
        yield job.process_problem(message + owner, "model")
    elif job.model is None:
        yield job.process_problem(
            f"model.{choice.key} selects {_describe_unknown_architecture(choice.arch)}", "model", choice.key
        )


def _describe_unknown_architecture(arch: str) -> str:
    known = TRAINER_KEYS["model"]["arch"].choices
    if arch in known:
        return f"{arch}, which docs/models.md does not describe"
    return f"{arch!r}, which ai-toolkit does not know{nearest(arch, known)}"


@AREA.warning(
    "model-unchecked",
    "with `unchecked` in the job's settings, lint does not check the model's memory, its settings or the names of its results",
    "watch the first run, or use a model from docs/models.md",
)
def unchecked_architectures(job: Subject) -> Iterator[Problem]:
    if job.trains and job.policy.unchecked and job.model is None:
        yield job.process_problem(f"{job.choice.arch} is trained unchecked", "model", job.choice.key)


@AREA.error(
    "model-mismatch",
    "ai-toolkit loads the weights as the given architecture, which fails or trains something else",
    "set model.arch and model.name_or_path to the values in one row of docs/models.md",
)
def mismatched_models(job: Subject) -> Iterator[Problem]:
    yield from _weights_of_another_architecture(job)
    yield from _flags_of_another_architecture(job)


def _weights_of_another_architecture(job: Subject) -> Iterator[Problem]:
    choice, owner = job.choice, job.choice.owner
    if not job.trains or not choice.key or owner is None:
        return
    if {choice.arch, LOADED_AS.get(choice.arch, "")} & set(owner.archs):
        return
    path = job.section("model").get("name_or_path")
    where = f"the image's {MODEL_FOLDER} has the weights of" if is_in_image(str(path)) else "name_or_path is"
    message = (
        f"{where} {choice.weights}, whose arch is {owner.arch}, but model.{choice.key} selects {choice.arch}"
    )
    yield job.process_problem(message, "model", choice.key)


def _flags_of_another_architecture(job: Subject) -> Iterator[Problem]:
    """ai-toolkit's older models are loaded by the first flag that it looks for, whatever `arch` says."""
    choice = job.choice
    arch = LOADED_AS.get(choice.arch, choice.arch)
    if not job.trains or not choice.key or arch not in {*ARCH_OF_FLAG.values(), DEFAULT_ARCH}:
        return
    own = {flag for flag, name in ARCH_OF_FLAG.items() if name == arch}
    for family in (FLAGS_OF_SDXL, FLAGS_OF_PIXART):
        own |= family if own & family else set()
    for flag in sorted(ARCH_OF_FLAG.keys() - own):
        if job.section("model").get(flag):
            message = f"model.{flag} is for {ARCH_OF_FLAG[flag]}, but model.{choice.key} selects {choice.arch}; delete one of them"
            yield job.process_problem(message, "model", flag)


@AREA.error(
    "model-path",
    f"a node has only the weights in its image's `{MODEL_FOLDER}`; ai-toolkit downloads other weights from Hugging Face, where gated models need a login",
    f"set name_or_path: {MODEL_FOLDER} to use the image's weights, or use an id from docs/models.md; for a gated model also set {HUB_LOGIN} under cluster.environment in the stack's configuration",
)
def unavailable_weights(job: Subject) -> Iterator[Problem]:
    path = job.section("model").get("name_or_path")
    if not job.trains or (isinstance(path, str) and is_in_image(path)):
        return
    if not isinstance(path, str) or not HUB_ID.fullmatch(path):
        yield job.process_problem(job.describe_setting("model.name_or_path", path), "model", "name_or_path")
        return
    if job.choice.owner is None and (listed := same_letters(path, KNOWN_WEIGHTS)):
        message = f"model.name_or_path is {path}, but the id is {listed}"
        yield job.process_problem(message, "model", "name_or_path")
    if _needs_login(job):
        message = f"{path} is gated, and the node has no {HUB_LOGIN}"
        yield job.process_problem(message, "model", "name_or_path")


@AREA.warning(
    "weights-unknown",
    "size, licence and access of these weights are unknown; if the download fails, the node's time is still billed",
    "correct the id if it is misspelt; docs/models.md lists the known ids",
)
def weights_that_the_table_lacks(job: Subject) -> Iterator[Problem]:
    path = job.section("model").get("name_or_path")
    if job.model is None or job.choice.owner or not isinstance(path, str) or not HUB_ID.fullmatch(path):
        return
    if not same_letters(path, KNOWN_WEIGHTS):
        similar = most_similar(path, KNOWN_WEIGHTS)
        message = f"docs/models.md does not list {path}" + (
            f"; the most similar id there is {similar}" if similar else ""
        )
        yield job.process_problem(message, "model", "name_or_path")


@AREA.warning(
    "weights-downloaded",
    "each new node downloads the weights again, and the download time is billed; with a gated model, the owner of a node can read your token",
    f"build an image that holds the weights (image.build, with image.model or the cluster's model in the stack's configuration), and set name_or_path: {MODEL_FOLDER}",
)
def downloaded_weights(job: Subject) -> Iterator[Problem]:
    path = job.section("model").get("name_or_path")
    if not job.trains or not isinstance(path, str) or not HUB_ID.fullmatch(path) or _needs_login(job):
        return
    about = "" if job.choice.owner else "about "
    size = f"{about}{job.model.download_gb(path):.0f} GB" if job.model else "the weights"
    token = f", with the {HUB_LOGIN} in the nodes' environment" if HUB_LOGIN in job.variables else ""
    yield job.process_problem(f"each node downloads {size} of {path}{token}", "model", "name_or_path")


@AREA.error(
    "storage-small",
    f"a node's disk needs space for the downloaded weights and for at least {OTHER_FILES_GB} GB of checkpoints and caches; otherwise the run fails after hours of paid download",
    "raise cluster.storage in the stack's configuration, or build an image that holds the weights (image.build, with image.model or the cluster's model)",
)
def weights_larger_than_the_disk(job: Subject) -> Iterator[Problem]:
    size, storage = downloaded_gb(job.section("model")), job.policy.storage
    if job.trains and storage is not None and size and size + OTHER_FILES_GB > storage:
        message = f"each node downloads {size:.0f} GB, and its disk has {storage} GB"
        yield job.process_problem(message, "model", "name_or_path")


@AREA.error(
    "model-newer",
    "an ai-toolkit that does not know an architecture loads it as Stable Diffusion 1, and fails",
    "use an image with a newer ai-toolkit (image.build, or your own image with cluster.trainerDate)",
)
def architectures_newer_than_the_trainer(job: Subject) -> Iterator[Problem]:
    model, choice = job.model, job.choice
    if model and choice.key == "arch" and choice.arch == model.arch and job.trainer_date < model.since:
        message = (
            f"arch {model.arch} came on {model.since}, and the image's ai-toolkit is from {job.trainer_date}"
        )
        yield job.process_problem(message, "model", "arch")


@AREA.error(
    "licence-commercial",
    "the stack's configuration says `commercial: true`, and the model's licence forbids that use",
    "choose a model that docs/models.md marks for commercial use, or remove `commercial` from the configuration",
)
def licences_without_commercial_use(job: Subject) -> Iterator[Problem]:
    if job.policy.commercial and job.model and not job.model.commercial:
        message = f"{job.model.name} has the {job.model.licence}"
        yield job.process_problem(message, "model", "name_or_path")


@AREA.error(
    "training-adapter",
    "training a distilled model without its training adapter destroys the distillation, and the LoRA is useless",
    "set model.assistant_lora_path to the adapter from docs/models.md",
)
def missing_training_adapter(job: Subject) -> Iterator[Problem]:
    model = job.model
    if model is None or not model.training_adapter or not model.has_weights(job.choice.weights):
        return
    section = job.section("model")
    if not section.get("assistant_lora_path") and not section.get("inference_lora_path"):
        yield job.process_problem(f"{model.name} is trained with {model.training_adapter}", "model")


@AREA.error(
    "adapter-other",
    "ai-toolkit stops at an adapter for another architecture, or ignores the adapter",
    ADAPTER_FIX,
)
def adapters_of_another_architecture(job: Subject) -> Iterator[Problem]:
    yield from _adapters_for_other_weights(job, same_architecture=False)


@AREA.warning(
    "adapter-unsuited",
    "ai-toolkit adds the adapter to the weights during training, so an adapter for other weights changes what the LoRA learns",
    ADAPTER_FIX,
)
def adapters_of_other_weights(job: Subject) -> Iterator[Problem]:
    yield from _adapters_for_other_weights(job, same_architecture=True)


@AREA.error(
    "adapter-path",
    "ai-toolkit downloads the adapter from Hugging Face after it has loaded the weights, and stops if the adapter is not there",
    ADAPTER_FIX,
)
def misspelt_adapters(job: Subject) -> Iterator[Problem]:
    for key, path in _adapters_in(job):
        listed = _listed_adapter(path)
        if listed and _repository_and_depth(path) != _repository_and_depth(listed):
            yield job.process_problem(f"model.{key} is {path}, but the adapter is {listed}", "model", key)


@AREA.warning(
    "adapter-unknown",
    "this adapter is unknown; if its download fails, the node's time is still billed",
    "correct the id if it is misspelt; docs/models.md lists the known adapters",
)
def adapters_that_the_table_lacks(job: Subject) -> Iterator[Problem]:
    for key, path in _adapters_in(job):
        if not _listed_adapter(path):
            similar = most_similar(path, KNOWN_ADAPTERS)
            near = f"; the most similar adapter there is {similar}" if similar else ""
            yield job.process_problem(f"docs/models.md does not list {path}{near}", "model", key)


def _adapters_in(job: Subject) -> Iterator[tuple[str, str]]:
    """(key, id on Hugging Face) of the job's adapters."""
    for key in ADAPTER_KEYS if job.model else ():
        path = job.section("model").get(key)
        if isinstance(path, str) and HUB_ID.fullmatch(path):
            yield key, path


def _listed_adapter(path: str) -> str:
    """The known adapter whose repository has the same letters; empty if there is none."""
    repositories = {_repository(known): known for known in KNOWN_ADAPTERS}
    return repositories.get(same_letters(_repository(path), repositories), "")


def _repository_and_depth(path: str) -> tuple[str, int]:
    """Its repository, and how many folders deep: some architectures load a repository, others a file in one. Versions of a file differ in name."""
    return _repository(path), path.count("/")


def _repository(path: str) -> str:
    return "/".join(path.lower().split("/")[:2])


def _adapters_for_other_weights(job: Subject, *, same_architecture: bool) -> Iterator[Problem]:
    """Training adapters that the table has for other weights, of the job's architecture or of another."""
    if job.model is None:
        return
    for key in ADAPTER_KEYS:
        path = job.section("model").get(key)
        made_for = _models_with_adapter(path) if isinstance(path, str) else []
        fits = any(set(row.archs) & set(job.model.archs) for row in made_for)
        is_own = job.choice.owner in made_for or (fits and not job.choice.owner)
        if made_for and not is_own and fits == same_architecture:
            takes = job.model.training_adapter or "none"
            message = (
                f"model.{key} is {path}, which is for {made_for[0].name}; {job.model.name} takes {takes}"
            )
            yield job.process_problem(message, "model", key)


def _models_with_adapter(path: str) -> list[TrainableModel]:
    """The models whose training adapter is in the repository of this path, in any version."""
    return [row for row in MODELS.values() if _repository(row.training_adapter) == _repository(path)]


@AREA.error(
    "scheduler",
    "a flow-matching model needs a flow-matching noise scheduler, and other models need a different one; ai-toolkit stops at an unknown name",
    "set train.noise_scheduler as docs/models.md says for the model, such as flowmatch",
)
def unsuitable_noise_schedulers(job: Subject) -> Iterator[Problem]:
    value = job.section("train").get("noise_scheduler")
    if job.model and _is_unsuitable(job, value):
        message = job.describe_setting("train.noise_scheduler", value) + _most_similar_sampler(job, value)
        yield job.process_problem(message, "train", "noise_scheduler")


@AREA.error(
    "sampler",
    f"a flow-matching model needs a sampler for flow matching, but ai-toolkit's default is {DEFAULT_SAMPLER}; it stops at the first sample with another or an unknown sampler",
    "set sample.sampler as docs/models.md says for the model, such as flowmatch",
)
def unsuitable_samplers(job: Subject) -> Iterator[Problem]:
    sample = job.section("sample")
    value = sample.get("sampler")
    # If sample.sampler is null, ai-toolkit keeps the training's noise scheduler (commit 7e7053fc).
    keeps = "sampler" in sample and value is None and job.trainer_date >= NO_SAMPLER_SINCE
    if job.model and not keeps and _draws_samples(job) and _is_unsuitable(job, value):
        message = job.describe_setting("sample.sampler", value) + _most_similar_sampler(job, value)
        yield job.process_problem(message, "sample", "sampler")


@AREA.warning(
    "sample-guidance",
    "with guidance, a distilled model draws distorted samples; without guidance, other models ignore the prompt",
    "set sample.guidance_scale to the model's value in docs/models.md",
)
def unsuitable_guidance(job: Subject) -> Iterator[Problem]:
    value = job.section("sample").get("guidance_scale")
    if job.model is None or not _draws_samples(job) or not is_number(value):
        return
    sampling = job.model.sampling
    wrong = value > MAX_DISTILLED_GUIDANCE if sampling.is_distilled else value <= 1
    if wrong:
        message = f"sample.guidance_scale is {value:g}; {sampling.guidance:g} suits {job.model.name}"
        yield job.process_problem(message, "sample", "guidance_scale")


@AREA.warning(
    "sample-size",
    "the model draws images in blocks of this many pixels, so other sizes are changed or fail",
    "choose a multiple of the number that docs/models.md lists for the model",
)
def sample_sizes_that_do_not_divide(job: Subject) -> Iterator[Problem]:
    for key in ("width", "height"):
        side = positive_int(job.section("sample").get(key))
        if job.model and side and side % job.model.sampling.multiple:
            message = f"sample.{key} {side} is not a multiple of {job.model.sampling.multiple}"
            yield job.process_problem(message, "sample", key)


@AREA.warning(
    "resolution-unusual",
    f"models train at {MIN_RESOLUTION} to {MAX_RESOLUTION} pixels, and image models only at multiples of the number in docs/models.md",
    "use a usual value, such as [512, 768, 1024]",
)
def unusual_resolutions(job: Subject) -> Iterator[Problem]:
    multiple = job.model.sampling.multiple if job.model else DEFAULT_MULTIPLE
    # For videos, `resolution` is the square root of an area: ai-toolkit's examples use 632 for 832 x 480.
    multiple = VIDEO_MULTIPLE if job.model and job.model.datasets.videos else multiple
    for side in dict.fromkeys(resolutions_of(job.process)):
        if not MIN_RESOLUTION <= side <= MAX_RESOLUTION or side % multiple:
            yield job.process_problem(f"resolution {side}", "datasets", "0", "resolution")


def _needs_login(job: Subject) -> bool:
    owner = job.choice.owner
    return owner is not None and owner.gated and HUB_LOGIN not in job.variables


def _is_unsuitable(job: Subject, value: object) -> bool:
    if _is_flow(job):
        return value != FLOWMATCH
    return value is not None and value not in NOISE_SAMPLERS


def _most_similar_sampler(job: Subject, value: object) -> str:
    return "" if _is_flow(job) or value == FLOWMATCH else nearest(str(value), NOISE_SAMPLERS)


def _is_flow(job: Subject) -> bool:
    return job.model is not None and job.model.sampling.noise == FLOWMATCH


def _draws_samples(job: Subject) -> bool:
    return bool(sample_prompts(job)) and not job.section("train").get("disable_sampling")
