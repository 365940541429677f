"""Rules about how a LoRA is trained: rates, sizes, samples."""

import math
import re
from collections.abc import Iterator, Sequence
from typing import TypeGuard

from flux_training.training.finding import Problem
from flux_training.training.lint.registry import Area, Subject
from flux_training.training.lint.rules.captions import has_placeholder
from flux_training.training.models.table import FLOWMATCH
from flux_training.training.names import PLACEHOLDERS, QUOTATION_MARKS
from flux_training.training.train_yml.trainer_config import positive_int, uses_variable
from flux_training.training.words import with_latin_letters

AREA = Area("training")
# Half the minimum and twice the maximum of the 500 to 4000 steps that ai-toolkit's FLUX example recommends.
MIN_STEPS, MAX_STEPS = 250, 8000
MIN_RATE, MAX_RATE = 1e-5, 1e-3
MIN_RANK, MAX_RANK = 2, 128
MAX_SAVE_EVERY = 1000
MAX_SAMPLES = 200
# ai-toolkit splits a prompt at each `--` and reads the next word as the name of an option.
NEGATIVE_FLAG = re.compile(r"--n(?: |\Z)")
INTEGER_FLAGS = ("w", "h", "frames", "num_frames", "fps", "ctrl_idx")
SEED_FLAGS, STEP_FLAGS, LIST_FLAGS = ("d", "seed"), ("s", "steps"), ("ev", "extra_values")
# What torch.manual_seed takes.
MIN_SEED, MAX_SEED = -(2**63), 2**64 - 1
NUMBER_FLAGS = ("l", "cfg", "m", "network_multiplier", "gr", "a", "ref")
# Before this date (ai-toolkit commit 0c3a5e69), LoKr used the rank in train.yml by default.
LOKR_FULL_RANK_SINCE = "2026-07-25"
# These optimizers choose the learning rate themselves; `lr` is only a factor.
ADAPTIVE_OPTIMIZERS = ("prodigy", "dadapt")
# ai-toolkit refuses unload_text_encoder for these architectures (its validate_configs).
ENCODES_CONTROLS = ("qwen_image_edit", "boogu_image_edit")
# For each type of LoRA that ai-toolkit can train, the other programs that can load it.
PROGRAMS = {
    "lora": "every program that knows the model",
    "dora": "ComfyUI; diffusers and most web services refuse it",
    "lokr": "ComfyUI and programs with LyCORIS; diffusers and most web services refuse it",
    "locon": "ComfyUI and programs with LyCORIS; diffusers and most web services refuse it",
    "lycoris": "ComfyUI and programs with LyCORIS; diffusers and most web services refuse it",
    "fullrank": "ai-toolkit only",
}


@AREA.error(
    "network-missing",
    "without a `network` section, ai-toolkit trains all parameters of the model, which do not fit on consumer GPUs",
    "add network: {type: lora, linear: 16, linear_alpha: 16}",
)
def missing_network(job: Subject) -> Iterator[Problem]:
    if job.trains and not job.section("network"):
        yield job.process_problem("there is no network", "network")


@AREA.warning(
    "network-type", "some programs can load only the standard kind of LoRA", "set network.type: lora"
)
def uncommon_network_types(job: Subject) -> Iterator[Problem]:
    kind = str(job.section("network").get("type", "lora")).lower()
    if kind != "lora" and kind in PROGRAMS:
        yield job.process_problem(
            f"network.type is {kind}, which is loaded by {PROGRAMS[kind]}", "network", "type"
        )


@AREA.error(
    "rank-invalid", "the rank of a LoRA must be a whole number", "use a rank from 4 to 64, such as 16"
)
def invalid_ranks(job: Subject) -> Iterator[Problem]:
    network = job.section("network")
    is_full = network.get("lokr_full_rank", job.trainer_date >= LOKR_FULL_RANK_SINCE)
    if str(network.get("type")).lower() == "lokr" and is_full:
        return  # ai-toolkit ignores the configured rank here
    for key in ("linear", "rank"):
        value = network.get(key)
        if value is not None and positive_int(value) is None and not uses_variable(value):
            yield job.process_problem(f"network.{key} is {value!r}", "network", key)


@AREA.warning(
    "rank-unusual",
    f"a LoRA with a rank below {MIN_RANK} hardly learns; a rank above {MAX_RANK} only makes it slower and larger",
    "use a usual rank, such as 16",
)
def unusual_rank(job: Subject) -> Iterator[Problem]:
    rank = _rank(job)
    if rank is not None and not MIN_RANK <= rank <= MAX_RANK:
        yield job.process_problem(f"the rank is {rank}", "network", "linear")


@AREA.warning(
    "rank-alpha",
    "a LoRA of Stable Diffusion is scaled by alpha / rank; if that is far from 1, it learns many times slower or faster than the learning rate suggests",
    "set network.linear_alpha to the rank",
)
def alpha_far_from_the_rank(job: Subject) -> Iterator[Problem]:
    network = job.section("network")
    rank, alpha = _rank(job), network.get("linear_alpha", network.get("alpha", 1))
    # For transformer models, ai-toolkit sets alpha to the rank (toolkit/lora_special.py).
    if job.model is None or job.model.sampling.noise == FLOWMATCH:
        return
    if not rank or network.get("type", "lora") != "lora" or not is_number(alpha):
        return
    if not 0.25 <= alpha / rank <= 4:
        yield job.process_problem(f"rank {rank} with alpha {alpha}", "network", "linear_alpha")


AREA.setting(
    "error",
    "learning-rate-invalid",
    "train.lr",
    lambda value: not (is_number(value) and value > 0),
    "the learning rate must be a number above 0",
    "set train.lr, for example to 1e-4",
)


@AREA.warning(
    "learning-rate",
    f"a LoRA learns nothing with a learning rate below {MIN_RATE:g}, and diverges above {MAX_RATE:g}",
    "use a usual learning rate: 1e-4, or 4e-4 with few steps",
)
def unusual_learning_rate(job: Subject) -> Iterator[Problem]:
    rate = job.section("train").get("lr")
    optimizer = str(job.section("train").get("optimizer", "")).lower()
    if not is_number(rate) or rate <= 0 or optimizer.startswith(ADAPTIVE_OPTIMIZERS):
        return
    if not MIN_RATE <= rate <= MAX_RATE:
        yield job.process_problem(f"train.lr is {rate:g}", "train", "lr")


@AREA.warning(
    "steps-unusual",
    f"ai-toolkit recommends 500 to 4000 steps in its example for FLUX; fewer than {MIN_STEPS} teach little, and more than {MAX_STEPS} cost money without effect",
    "use a usual number of steps, such as 2000",
)
def unusual_number_of_steps(job: Subject) -> Iterator[Problem]:
    steps = job.config.steps if job.config else None
    if steps is not None and not MIN_STEPS <= steps <= MAX_STEPS:
        yield job.process_problem(f"train.steps is {steps}", "train", "steps")


@AREA.warning(
    "save-every-misfit",
    "an interruption loses the steps since the last checkpoint, and samples are drawn at steps without a checkpoint",
    "choose save.save_every so that train.steps is a multiple of it",
)
def saves_that_do_not_match_the_steps(job: Subject) -> Iterator[Problem]:
    if not job.config or not job.config.steps or not job.config.save_every:
        return
    steps, every = job.config.steps, job.config.save_every
    if every > steps:
        yield job.process_problem(
            f"save_every {every} is above steps {steps}: no checkpoint is saved", "save", "save_every"
        )
    elif steps % every:
        yield job.process_problem(f"save_every {every} does not divide steps {steps}", "save", "save_every")


@AREA.warning(
    "saves-rare",
    "a SaladCloud node can disappear at any time, and the steps since its last checkpoint are trained and billed again",
    "save a checkpoint about every 250 steps",
)
def rare_saves(job: Subject) -> Iterator[Problem]:
    every = job.config.save_every if job.config else None
    if every and every > MAX_SAVE_EVERY:
        yield job.process_problem(f"saves only every {every} steps", "save", "save_every")


AREA.setting(
    "warning",
    "dtype",
    "train.dtype",
    lambda value: value not in ("bf16", "bfloat16"),
    "models such as FLUX train in bf16: fp16 overflows, and fp32 takes twice the memory",
    "set train.dtype: bf16",
    default="fp32",
)
AREA.setting(
    "warning",
    "text-encoder",
    "train.train_text_encoder",
    lambda value: value is True,
    'according to ai-toolkit, training the text encoder "probably won\'t work with flux"',
    "set train.train_text_encoder: false",
)


@AREA.warning(
    "captions-unread",
    "with only train.unload_text_encoder, ai-toolkit trains every image with the trigger word and without its caption",
    "set train.cache_text_embeddings: true instead, which needs as little memory",
)
def unread_captions(job: Subject) -> Iterator[Problem]:
    train = job.section("train")
    is_cached = all(caches_text_embeddings(job))
    if train.get("unload_text_encoder") and not is_cached and job.choice.arch not in ENCODES_CONTROLS:
        message = "train.unload_text_encoder is true, and cache_text_embeddings is not"
        yield job.process_problem(message, "train", "unload_text_encoder")


AREA.setting(
    "error",
    "train-unet",
    "train.train_unet",
    lambda value: value is False,
    "a LoRA contains only changes to the transformer or U-Net, so with train_unet: false nothing is trained",
    "set train.train_unet: true",
)


@AREA.warning(
    "caption-dropout",
    "training an image without its caption teaches no words",
    "use a usual rate, such as 0.05",
)
def high_caption_dropout(job: Subject) -> Iterator[Problem]:
    for number, entry in enumerate(job.config.datasets if job.config else ()):
        rate = entry.get("caption_dropout_rate", 0)
        if is_number(rate) and rate > 0.5:
            yield job.process_problem(
                f"caption_dropout_rate is {rate}", "datasets", str(number), "caption_dropout_rate"
            )


@AREA.warning(
    "prompts-missing",
    "without sample images, you see what the LoRA learned only after the training",
    "add two or three prompts under sample.prompts",
)
def missing_sample_prompts(job: Subject) -> Iterator[Problem]:
    if job.trains and not sample_prompts(job) and not job.section("train").get("disable_sampling"):
        yield job.process_problem("there are no sample prompts", "sample", "prompts")


@AREA.error(
    "negative-prompt",
    "ai-toolkit always encodes a negative prompt, even for models that do not use one; if `neg` is not set, it stops at the first sample",
    'add neg: "" to the section',
)
def missing_negative_prompts(job: Subject) -> Iterator[Problem]:
    if job.section("train").get("disable_sampling"):
        return
    first = job.section("first_sample")
    if first.get("prompts") and "neg" not in first:
        yield job.process_problem("first_sample.neg is missing", "first_sample")
    if "neg" in job.section("sample"):
        return
    for (_, key, number), prompt in sample_prompts(job):
        entry = job.section("sample")[key][int(number)]
        if not NEGATIVE_FLAG.search(prompt.strip()) and not (isinstance(entry, dict) and "neg" in entry):
            yield job.process_problem("sample.neg is missing", "sample")
            return


@AREA.error(
    "prompt-flag",
    "ai-toolkit reads flags such as `--w 512` in a prompt as settings, and stops at the first sample if a flag's value is not a valid number",
    "correct the number after the flag, or write the prompt without `--`",
)
def invalid_prompt_flags(job: Subject) -> Iterator[Problem]:
    for place, prompt in sample_prompts(job):
        for flag, content in _flags(prompt):
            if not _is_flag_value(flag, content):
                yield job.process_problem(f"--{flag} {content}".rstrip() + " in a prompt", *place)


def _flags(prompt: str) -> Iterator[tuple[str, str]]:
    """(flag, value) of each setting in a prompt."""
    for part in prompt.strip().split("--")[1:]:
        flag = part.split(" ")[0]
        yield flag.strip(), part[len(flag) :].strip()


def _is_flag_value(flag: str, content: str) -> bool:
    try:
        if flag in INTEGER_FLAGS:
            int(content)
        elif flag in NUMBER_FLAGS:
            float(content)
        elif flag in LIST_FLAGS:
            [float(part) for part in content.split(",")]
        elif flag in STEP_FLAGS:
            return int(content) >= 1
        elif flag in SEED_FLAGS:
            return MIN_SEED <= int(content) <= MAX_SEED
    except ValueError:
        return False
    return True


@AREA.warning(
    "prompt-trigger",
    "a sample without the trigger word shows what the model draws without the LoRA",
    "write [trigger] in place of the subject",
)
def prompts_without_the_trigger_word(job: Subject) -> Iterator[Problem]:
    trigger = job.config.trigger if job.config else ""
    for place, prompt in sample_prompts(job) if trigger else ():
        if trigger not in prompt and not has_placeholder(prompt):
            yield job.process_problem(
                f"`{_short(prompt)}` does not contain the trigger word `{trigger}`", *place
            )


@AREA.error(
    "trigger-look-alike",
    "letters of two alphabets can look the same, but to the model these are two words",
    "type the word again, with the same keyboard layout in train.yml, captions and prompts",
)
def words_that_look_like_the_trigger_word(job: Subject) -> Iterator[Problem]:
    words = [word for word in (job.config.trigger if job.config else "", *PLACEHOLDERS) if word]
    for caption in job.captions:
        if found := _look_alike(caption.text, words):
            yield job.dataset_problem(caption.name, found)
    for place, prompt in sample_prompts(job):
        if found := _look_alike(prompt, words):
            yield job.process_problem(found, *place)


def _look_alike(text: str, words: Sequence[str]) -> str:
    """That a word of a text looks like one of these but has other letters; empty if none does, or if the word itself is there too."""
    for word in words:
        pattern = rf"(?<!\w){re.escape(with_latin_letters(word))}(?!\w)"
        match = re.search(pattern, with_latin_letters(text))
        if match and word not in text:
            found = text[match.start() : match.end()]
            other = next(pair for pair in zip(found, word, strict=True) if pair[0] != pair[1])
            codes = " for ".join(f"U+{ord(letter):04X}" for letter in other)
            return f"`{found}` only looks like `{word}` ({codes})"
    return ""


@AREA.warning(
    "trigger-quotes",
    "YAML removes only straight quotes around a value, so other quotes become part of the trigger word",
    "use straight quotes (\" or '), or none",
)
def trigger_words_with_quotes(job: Subject) -> Iterator[Problem]:
    trigger = job.config.trigger if job.config else ""
    if trigger.startswith(tuple(QUOTATION_MARKS)):
        word = trigger.strip(QUOTATION_MARKS + " ")
        yield job.process_problem(
            f"the trigger word is `{trigger}` with its quotes, not `trigger_word: {word}`", "trigger_word"
        )


@AREA.warning(
    "prompt-placeholder",
    "without a trigger_word, the placeholder stays in the prompt as it is",
    "set trigger_word, or write the word itself in the prompt",
)
def prompts_with_a_placeholder_but_no_trigger_word(job: Subject) -> Iterator[Problem]:
    for place, prompt in sample_prompts(job) if job.config and not job.config.trigger else ():
        if has_placeholder(prompt):
            yield job.process_problem(f"[trigger] in `{_short(prompt)}` has no meaning", *place)


@AREA.warning(
    "samples-many",
    "each sample takes about 20 seconds of GPU time",
    "raise sample.sample_every, or use fewer prompts",
)
def too_many_samples(job: Subject) -> Iterator[Problem]:
    steps = job.config.steps if job.config else None
    every = positive_int(job.section("sample").get("sample_every", 100))
    if steps and every and not job.section("train").get("disable_sampling"):
        count = (steps // every + 1) * len(sample_prompts(job))
        if count > MAX_SAMPLES:
            yield job.process_problem(f"{count} samples in one run", "sample", "sample_every")


def caches_text_embeddings(job: Subject) -> list[bool]:
    """Of each dataset."""
    is_set_for_all = bool(job.section("train").get("cache_text_embeddings"))
    return [
        is_set_for_all or bool(entry.get("cache_text_embeddings"))
        for entry in (job.config.datasets if job.config else ())
    ]


def sample_prompts(job: Subject) -> list[tuple[tuple[str, str, str], str]]:
    """(place, prompt) of each sample prompt. ai-toolkit ignores `prompts` beside `samples`."""
    sample = job.section("sample")
    key = "samples" if "samples" in sample else "prompts"
    entries = sample.get(key)
    found: list[tuple[tuple[str, str, str], str]] = []
    for number, entry in enumerate(entries if isinstance(entries, list) else []):
        text = entry.get("prompt") if isinstance(entry, dict) else entry
        if isinstance(text, str):
            found.append((("sample", key, str(number)), text))
    return found


def _rank(job: Subject) -> int | None:
    network = job.section("network")
    return positive_int(network.get("rank", network.get("linear")))


def is_number(value: object) -> TypeGuard[float]:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _short(prompt: str) -> str:
    text = " ".join(prompt.split())
    return text if len(text) <= 60 else f"{text[:57]}..."
