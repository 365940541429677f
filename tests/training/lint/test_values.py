"""The limits of lint rules, and the path, line and value in their findings."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from flux_training.training.dataset.facts import Caption, DatasetFacts
from flux_training.training.dataset.image_facts import ImageFacts
from flux_training.training.errors import BadInput
from flux_training.training.finding import Problem
from flux_training.training.jobs.folder import read_config, read_images
from flux_training.training.jobs.lint import lint_jobs
from flux_training.training.lint import document
from flux_training.training.lint.check import check_rules
from flux_training.training.lint.document import lint_document
from flux_training.training.lint.registry import Area, Rule, Subject
from flux_training.training.lint.rules import RULES
from flux_training.training.lint.rules.captions import t5_tokens
from flux_training.training.lint.rules.options import sample_prompts
from flux_training.training.lint.secret_patterns import find_secrets, names_a_secret, without_secrets
from flux_training.training.train_yml.trainer_config import TrainerFile, read_trainer_file
from flux_training.training.train_yml.trainer_version import PINNED
from tests.training.job_folders import make_job
from tests.training.lint_folders import TOKEN, TRAIN_YML, make_clean_job, stack

FOLDER = Path("jobs/cat")


def captioned(text: str) -> Subject:
    dataset = DatasetFacts(
        FOLDER / "dataset",
        images={"1.jpg": ImageFacts("1.jpg", 1, "sha", format="JPEG", width=512, height=512, mode="RGB")},
        captions={"1.txt": Caption("1.txt", text)},
    )
    return Subject("cat", FOLDER, None, dataset)


def configured(process: Mapping[str, Any]) -> Subject:
    file = TrainerFile(FOLDER / "train.yml", document={"config": {"name": "cat", "process": [process]}})
    return Subject("cat", FOLDER, file, None)


def messages(code: str, job: Subject) -> list[str]:
    return [problem.message for problem in RULES[code].check(job)]


@pytest.mark.parametrize(
    ("text", "tokens"),
    [
        ("", 0),
        ("a b c", 4),
        ("a b c d", 6),
        ("a" * 40, 10),
        ("a" * 41, 11),
    ],
)
def test_tokens_are_estimated_from_words_and_characters(text: str, tokens: int) -> None:
    assert t5_tokens(text) == tokens


@pytest.mark.parametrize(
    ("job", "command"), [("cat", "./flux caption cat"), ("a cat", "./flux caption 'a cat'")]
)
def test_the_command_of_a_fix_names_the_job(job: str, command: str) -> None:
    finding = RULES["caption-missing"].finding(Problem("1.txt", "no caption for this image"), job)
    assert f"`{command}`" in finding.fix


def test_a_caption_longer_than_flux_reads_is_reported() -> None:
    assert messages("caption-long", captioned("a " * 384)) == []
    assert messages("caption-long", captioned("a " * 385)) == ["about 514 tokens"]


@pytest.mark.parametrize("text", ["one\ttwo\r\nthree", "café", "猫 🐈\u200d⬛", "a\u00a0b", "\u200eא"])
def test_ordinary_text_is_not_garbled(text: str) -> None:
    assert messages("caption-garbled", captioned(text)) == []


@pytest.mark.parametrize("sign", ["\x00", "\x1b", "\x85", "\ue000", "\u0378", "\ufffd"])
def test_invisible_characters_are_garbled(sign: str) -> None:
    (problem,) = RULES["caption-garbled"].check(captioned(f"one\ntwo{sign}{sign}"))
    assert problem == Problem("jobs/cat/dataset/1.txt", f"contains the character U+{ord(sign):04X}", 2)


def rule_saying(code: str, *problems: Problem, text: str = "why") -> Rule:
    return Rule(code, "warning", text, "fix", lambda _job: problems)


def test_findings_are_sorted_by_path_and_line() -> None:
    rules = [
        rule_saying("a", Problem("x", "m", 1), Problem("x", "m", 2)),
        rule_saying("b", Problem("x", "m"), Problem("w", "m", 3)),
    ]
    found = check_rules(Subject("cat", FOLDER, None, None), rules)
    assert [(finding.path, finding.line, finding.code) for finding in found] == [
        ("w", 3, "b"),
        ("x", None, "b"),
        ("x", 1, "a"),
        ("x", 2, "a"),
    ]


def test_rules_ignore_parts_that_could_not_be_read() -> None:
    assert check_rules(Subject("cat", FOLDER, None, None)) == []
    assert [finding.code for finding in check_rules(captioned("a cat"))] == ["image-few"]


def test_rule_texts_are_escaped_in_the_document(monkeypatch: pytest.MonkeyPatch) -> None:
    area = Area("odd", [rule_saying("odd-rule", text="a|b <c>")])
    monkeypatch.setattr(document, "AREAS", [area])
    assert lint_document().endswith("| `odd-rule` | warning | a\\|b &lt;c> | fix |\n")


@pytest.mark.parametrize(
    ("network", "said"),
    [
        ({"linear": 16}, []),
        ({"rank": 16}, []),
        ({"linear": 512}, ["the rank is 512"]),
        ({"rank": 512}, ["the rank is 512"]),
        # `rank` wins, as in ai-toolkit.
        ({"rank": 512, "linear": 16}, ["the rank is 512"]),
    ],
)
def test_rank_is_read_from_both_keys(network: Mapping[str, int], said: list[str]) -> None:
    assert messages("rank-unusual", configured({"network": network})) == said


@pytest.mark.parametrize(
    ("network", "date", "reported"),
    [
        ({}, "2026-07-24", True),
        ({}, "2026-07-25", False),
        ({"lokr_full_rank": True}, "2026-07-24", False),
        ({"lokr_full_rank": False}, "2026-07-25", True),
    ],
)
def test_only_a_lokr_of_full_rank_needs_no_rank(
    network: Mapping[str, object], date: str, reported: bool
) -> None:
    job = configured({"network": {"type": "lokr", "linear": 0, **network}})
    assert bool(messages("rank-invalid", replace(job, trainer_date=date))) == reported


@pytest.mark.parametrize(
    ("model", "reported"),
    [({"is_flux": True}, False), ({"arch": "qwen_image"}, False), ({"arch": "sdxl"}, True)],
)
def test_an_alpha_far_from_the_rank_matters_only_where_ai_toolkit_uses_it(
    model: Mapping[str, object], reported: bool
) -> None:
    job = configured({"network": {"type": "lora", "linear": 16, "linear_alpha": 1}, "model": model})
    assert bool(messages("rank-alpha", job)) == reported


@pytest.mark.parametrize(
    ("sample", "missing"),
    [
        ({"prompts": ["a"], "neg": ""}, False),
        ({"prompts": ["a"]}, True),
        ({"prompts": ["a --n bad"]}, False),
        ({"prompts": ["a --n"]}, False),
        ({"prompts": ["--n bad"]}, False),
        ({"prompts": ["a --n2 bad"]}, True),
        ({"samples": [{"prompt": "a", "neg": ""}]}, False),
        ({"samples": [{"prompt": "a", "neg": ""}, {"prompt": "b"}]}, True),
        ({"prompts": []}, False),
    ],
)
def test_a_sample_needs_a_negative_prompt(sample: Mapping[str, object], missing: bool) -> None:
    said = ["sample.neg is missing"] if missing else []
    assert messages("negative-prompt", configured({"sample": sample})) == said
    assert (
        messages("negative-prompt", configured({"sample": sample, "train": {"disable_sampling": True}})) == []
    )


@pytest.mark.parametrize(
    ("value", "reported"), [("txt", False), (".txt", False), ("..txt", True), ("json", True)]
)
def test_captions_end_with_txt(value: str, reported: bool) -> None:
    assert bool(messages("caption-ext", configured({"datasets": [{"caption_ext": value}]}))) == reported


@pytest.mark.parametrize(
    ("value", "reported"),
    [(4, False), (4.0, False), ("4", False), ("-1", False), (4.5, True), ("4.0", True), ("four", True)],
)
def test_a_factor_is_what_int_can_read(value: object, reported: bool) -> None:
    job = configured({"network": {"type": "lokr", "lokr_factor": value}})
    assert bool(messages("value-type", job)) == reported


@pytest.mark.parametrize(
    ("process", "code", "value"),
    [
        # replicate/flux-fine-tuner#54
        ({"datasets": [{"resolution": "512,768,1024"}]}, "value-type", "'512,768,1024'"),
        ({"datasets": [{"resolution": "512x768"}]}, "value-type", "'512x768'"),
        ({"datasets": [{"resolution": "[512, 768]"}]}, "value-type", "'[512, 768]'"),
        ({"datasets": [{"caption_dropout_rate": "5%"}]}, "value-type", "'5%'"),
        ({"datasets": [{"caption_dropout_rate": "0,05"}]}, "value-type", "'0,05'"),
        ({"model": {"quantize": "false"}}, "value-misread", "'false'"),
        ({"model": {"quantize": "no"}}, "value-misread", "'no'"),
        ({"model": {"quantize": "flase"}}, "value-misread", "'flase'"),
        ({"train": {"gradient_checkpointing": "Fasle"}}, "value-misread", "'Fasle'"),
        ({"model": {"low_vram": "disabled"}}, "value-misread", "'disabled'"),
        ({"train": {"batch_size": "one"}}, "value-type", "'one'"),
    ],
)
def test_values_in_the_form_of_other_trainers_are_reported(
    process: Mapping[str, Any], code: str, value: str
) -> None:
    (said,) = messages(code, configured(process))
    assert f" is {value}: " in said


@pytest.mark.parametrize(
    ("train", "newer"),
    [
        ({"timestep_type": "sigmoid", "optimizer": "AdamW"}, []),
        ({"timestep_type": "weighted"}, ["train.timestep_type weighted exists since 2025-06-04"]),
        ({"optimizer": "Automagic2"}, ["train.optimizer automagic2 exists since 2026-05-05"]),
        ({"do_fft_loss": True}, ["train.do_fft_loss exists since 2026-05-24"]),
    ],
)
def test_keys_and_choices_newer_than_the_trainer_are_reported(
    train: Mapping[str, object], newer: list[str]
) -> None:
    job = replace(configured({"train": train}), trainer_date="2025-04-01")
    assert messages("key-new", job) == [f"{text}, the image has ai-toolkit of 2025-04-01" for text in newer]


@pytest.mark.parametrize(
    ("process", "newer"),
    [
        ({"model": {"quantize": True, "qtype": "nvfp4"}}, ["model.qtype nvfp4 exists since 2026-08-03"]),
        ({"model": {"quantize": True, "qtype": "convrotint4"}}, []),
        (
            {"train": {"optimizer": "automagicexperiment"}},
            ["train.optimizer automagicexperiment exists since 2026-08-01"],
        ),
        ({"train": {"optimizer": "automagic3"}}, []),
        (
            {"train": {"guidance_loss_schedule": "sigma"}},
            ["train.guidance_loss_schedule exists since 2026-08-05"],
        ),
        ({"datasets": [{"batch_size": 2}]}, ["datasets[0].batch_size exists since 2026-08-21"]),
    ],
)
def test_what_the_pinned_trainer_lacks_is_reported(process: Mapping[str, Any], newer: list[str]) -> None:
    job = replace(configured(process), trainer_date=PINNED.date)
    assert messages("key-new", job) == [
        f"{text}, the image has ai-toolkit of {PINNED.date}" for text in newer
    ]


@pytest.mark.parametrize(
    ("controls", "newer"),
    [
        (["depth", "sapiens2_mask"], ["datasets[0].controls sapiens2_mask exists since 2026-05-20"]),
        (["depth"], []),
    ],
)
def test_each_choice_of_a_list_has_a_date(controls: list[str], newer: list[str]) -> None:
    job = replace(configured({"datasets": [{"controls": controls}]}), trainer_date="2026-05-01")
    assert messages("key-new", job) == [f"{text}, the image has ai-toolkit of 2026-05-01" for text in newer]


@pytest.mark.parametrize(
    ("prompt", "reported"),
    [
        ("a --steps 1", False),
        ("a --steps 0", True),
        ("a --s -3", True),
        ("a --seed -9223372036854775808", False),
        ("a --seed -9223372036854775809", True),
        ("a --d 18446744073709551615", False),
        ("a --d 18446744073709551616", True),
        ("a --ev 1,2.5, 3", False),
        ("a --ev 1,,2", True),
        ("a --extra_values one", True),
    ],
)
def test_numbers_after_a_flag_in_a_prompt_are_those_the_trainer_can_use(prompt: str, reported: bool) -> None:
    assert bool(messages("prompt-flag", configured({"sample": {"prompts": [prompt]}}))) == reported


SWAPPING = {"do_paramiter_swapping": True}


@pytest.mark.parametrize(
    ("process", "code"),
    [
        ({"sample": {"seed": -(2**63)}}, ""),
        ({"sample": {"seed": -(2**63) - 1}}, "value-range"),
        ({"sample": {"seed": 2**64 - 1}}, ""),
        ({"sample": {"seed": 2**64}}, "value-range"),
        ({"sample": {"samples": [{"prompt": "a", "seed": -(2**63) - 1}]}}, "value-range"),
        ({"sample": {"samples": [{"prompt": "a", "seed": "42"}]}}, ""),
        ({"sample": {"samples": [{"prompt": "a", "seed": "4.2"}]}}, "value-type"),
        ({"sample": {"seed": "42"}}, "value-type"),
        ({"sample": {"seed": 2**64 - 2, "walk_seed": True, "prompts": ["a", "b"]}}, ""),
        ({"sample": {"seed": 2**64 - 1, "walk_seed": True, "prompts": ["a", "b"]}}, "config-conflict"),
        ({"sample": {"seed": 2**64 - 1, "prompts": ["a", "b"]}}, ""),
        ({"datasets": [{"random_triggers": ["a", "b"], "random_triggers_max": 2}]}, ""),
        ({"datasets": [{"random_triggers": ["a", "b"], "random_triggers_max": 1.5}]}, "value-type"),
        ({"model": {"quantize": True, "qtype": "uint3|owner/adapter"}}, ""),
        ({"model": {"quantize": True, "qtype": "int8|a|b"}}, "config-conflict"),
        ({"model": {"qtype": "int8|a|b"}}, "config-conflict"),
        (
            {"train": {"validation_config": {"validation_items": [{}], "validation_sigmas": []}}},
            "value-range",
        ),
        ({"train": {"validation_config": {"validation_items": [], "validation_sigmas": []}}}, ""),
        ({"train": {**SWAPPING, "optimizer": "automagic", "paramiter_swapping_factor": 0.1}}, ""),
        ({"train": {**SWAPPING, "optimizer": "automagic", "paramiter_swapping_factor": 0}}, "value-range"),
        ({"train": {**SWAPPING, "optimizer": "automagic2"}}, "config-conflict"),
        ({"train": {"do_cfg": True, "batch_size": 2}}, "config-conflict"),
        ({"train": {"do_cfg": True, "batch_size": 2, "bypass_guidance_embedding": True}}, ""),
        ({"train": {"do_cfg": True}}, ""),
        ({"train": {"loss_type": "mean_flow", "batch_size": 2}}, "config-conflict"),
        ({"train": {"loss_type": "mean_flow"}}, ""),
        ({"train": {"min_denoising_steps": True}}, "value-type"),
        ({"train": {"max_denoising_steps": True}}, "value-type"),
        ({"train": {"num_train_timesteps": True}}, "value-type"),
        ({"network": {"network_kwargs": {"parameter_threshold": 56_641_536}}}, ""),
        ({"network": {"network_kwargs": {"parameter_threshold": 56_641_537}}}, "config-conflict"),
    ],
)
def test_values_beyond_what_the_trainer_can_use_are_found(process: Mapping[str, Any], code: str) -> None:
    job = configured({"model": {"is_flux": True}, **process})
    codes = ("value-range", "value-type", "value-choice", "config-conflict")
    assert [one for one in codes if messages(one, job)] == ([code] if code else [])


PRESERVING = {"diff_output_preservation": True}


@pytest.mark.parametrize(
    ("process", "words"),
    [
        ({"model": {"attn_masking": True}}, "model.attn_masking needs model.is_flux: true"),
        (
            {"train": {"do_guidance_loss": True, "bypass_guidance_embedding": True}},
            "do_guidance_loss cannot be used with bypass_guidance_embedding",
        ),
        (
            {"train": {"do_guidance_loss": True, "guidance_loss_target": [2]}},
            "guidance_loss_target [2] must be a number or a range",
        ),
        (
            {"model": {"assistant_lora_path": "a/b", "accuracy_recovery_adapter": "c/d"}},
            "assistant_lora_path and an accuracy recovery adapter exclude each other",
        ),
        (
            {"model": {"assistant_lora_path": "a/b", "inference_lora_path": "c/d"}},
            "assistant_lora_path and inference_lora_path exclude each other",
        ),
        (
            {"model": {"inference_lora_path": "a/b", "lora_path": "c/d"}},
            "lora_path excludes assistant_lora_path and inference_lora_path",
        ),
        (
            {"trigger_word": "cat", "train": {**PRESERVING, "blank_prompt_preservation": True}},
            "diff_output_preservation and blank_prompt_preservation exclude each other",
        ),
        (
            {"trigger_word": "cat", "train": {**PRESERVING, "train_text_encoder": True}},
            "diff_output_preservation cannot be used with train_text_encoder",
        ),
        ({"train": PRESERVING}, "diff_output_preservation needs a trigger_word"),
        (
            {"datasets": [{"cache_text_embeddings": True}, {}]},
            "cache_text_embeddings must be set for all datasets or for none",
        ),
        (
            {"train": {"train_text_encoder": True, "unload_text_encoder": True}},
            "a text encoder that is unloaded or cached cannot be trained",
        ),
        ({"datasets": [{"buckets": False}, {}]}, "buckets must be on for all datasets or for none"),
        ({"datasets": [{"buckets": False, "batch_size": 2}]}, "datasets[0].batch_size needs buckets"),
        (
            {"datasets": [{"is_reg": True}]},
            "all datasets are regularization images (is_reg), so there is nothing to learn",
        ),
        ({"datasets": [{"poi": "face"}]}, "ai-toolkit no longer supports poi and stops"),
        (
            {"train": {"gradient_accumulation": 2, "gradient_accumulation_steps": 4}},
            "gradient_accumulation and gradient_accumulation_steps are both set; keep one",
        ),
        ({"train": {"xformers": True}}, "train.xformers needs the package xformers"),
        (
            {"train": {"short_and_long_captions": True}},
            "short_and_long_captions needs two captions for each image",
        ),
        (
            {"datasets": [{"cache_clip_vision_to_disk": True}]},
            "cache_clip_vision_to_disk needs an adapter",
        ),
        (
            {"train": {"loss_target": "unaugmented"}},
            "loss_target unaugmented needs augmentations in a dataset",
        ),
        (
            {"train": {"single_item_batching": True, "batch_size": 2}},
            "single_item_batching fails with a batch_size above 1",
        ),
        ({"logging": {"use_wandb": True}}, "use_wandb needs WANDB_API_KEY"),
        ({"log_dir": "output/cat"}, "log_dir output/cat is the folder of the checkpoints"),
    ],
)
def test_settings_that_exclude_each_other_are_one_finding(process: Mapping[str, Any], words: str) -> None:
    (message,) = messages("config-conflict", configured({"datasets": [{}], **process}))
    assert message.startswith(words)


@pytest.mark.parametrize(
    ("process", "since"),
    [
        ({"trigger_word": "cat", "train": {**PRESERVING, "cache_text_embeddings": True}}, "2026-08-09"),
        (
            {"trigger_word": "cat", "train": PRESERVING, "datasets": [{"cache_text_embeddings": True}]},
            "2026-08-09",
        ),
        ({"train": PRESERVING, "datasets": [{"trigger_word": "cat"}]}, "2026-08-09"),
        ({"train": {"batch_size": 2}, "datasets": [{"auto_frame_count": True}]}, "2026-08-21"),
    ],
)
def test_combinations_that_an_older_trainer_refuses_are_found(
    process: Mapping[str, object], since: str
) -> None:
    job = configured({"datasets": [{}], **process})
    assert messages("config-conflict", replace(job, trainer_date=since)) == []
    (message,) = messages("config-conflict", replace(job, trainer_date="2026-07-21"))
    assert message.endswith(f"needs ai-toolkit of {since}; the image has that of 2026-07-21")


@pytest.mark.parametrize(
    ("entry", "reported"),
    [({"num_frames": 17}, True), ({"auto_frame_count": True}, True), ({"num_frames": 1}, False), ({}, False)],
)
def test_an_older_trainer_takes_no_images_with_frames(entry: Mapping[str, Any], reported: bool) -> None:
    job = configured({"datasets": [{"folder_path": "dataset", **entry}]})
    job = replace(job, dataset=captioned("a cat").dataset)
    assert messages("config-conflict", job) == []
    assert bool(messages("config-conflict", replace(job, trainer_date=PINNED.date))) == reported


def test_without_workers_an_older_trainer_takes_no_prefetch_factor() -> None:
    for entry, reported in (
        ({"num_workers": 0}, True),
        ({"num_workers": 0, "prefetch_factor": 2}, True),
        ({"num_workers": 0, "prefetch_factor": None}, False),
        ({"num_workers": 1}, False),
        ({}, False),
    ):
        job = configured({"datasets": [entry]})
        assert messages("config-conflict", job) == []
        assert bool(messages("config-conflict", replace(job, trainer_date=PINNED.date))) == reported


def test_combinations_that_every_trainer_takes_are_no_conflict() -> None:
    for process in (
        {"trigger_word": "cat", "train": PRESERVING, "datasets": [{}]},
        {"train": {"batch_size": 1}, "datasets": [{"auto_frame_count": True}]},
        {"train": {"batch_size": 2, "cache_text_embeddings": True}, "datasets": [{}]},
    ):
        job = replace(configured(process), trainer_date="2026-07-21")
        assert messages("config-conflict", job) == []


@pytest.mark.parametrize(
    ("section", "key"),
    [("train", "lr"), ("train", "max_grad_norm"), ("network", "linear"), ("datasets", "resolution")],
)
def test_values_from_a_variable_are_not_checked(section: str, key: str) -> None:
    """ai-toolkit replaces `${NAME}` before it reads the YAML."""
    for value, count in (("${VALUE}", 0), ("words", 1)):
        entry = {key: [value] if key == "resolution" else value}
        job = configured({section: [entry] if section == "datasets" else entry})
        codes = ("learning-rate-invalid", "rank-invalid", "value-type")
        assert sum(len(messages(code, job)) for code in codes) == count + (key != "lr")


def test_layers_from_a_variable_are_not_checked() -> None:
    for part, count in (("${LAYERS}", 0), ("nothing", 1)):
        network = {"type": "lora", "network_kwargs": {"only_if_contains": [part]}}
        job = configured({"model": {"is_flux": True}, "network": network})
        found = [message for message in messages("config-conflict", job) if "leave no layer" in message]
        assert len(found) == count


def test_the_steps_may_not_come_from_a_variable() -> None:
    """The launcher and the estimates need them."""
    job = configured({"train": {"steps": "${STEPS}", "lr": 1e-4}})
    assert messages("steps-invalid", job) == ["train.steps is '${STEPS}'"]


@pytest.mark.parametrize(("mode", "count"), [("RGB", 1), ("L", 1), ("LA", 1), ("RGBA", 0)])
def test_alpha_mask_needs_images_with_transparency(mode: str, count: int) -> None:
    image = ImageFacts("1.png", 1, "sha", format="PNG", width=512, height=512, mode=mode)
    for alpha_mask in (True, False):
        job = configured({"datasets": [{"folder_path": "dataset", "alpha_mask": alpha_mask}]})
        job = replace(job, dataset=DatasetFacts(FOLDER / "dataset", images={"1.png": image}, captions={}))
        assert len(messages("alpha-mask", job)) == count * alpha_mask


@pytest.mark.parametrize(("gpu", "small"), [("X (23 GB)", True), ("X (24 GB)", False), ("X (25 GB)", False)])
def test_gpu_small_is_reported_below_24_gb(gpu: str, small: bool) -> None:
    job = replace(configured({"model": {"is_flux": True}}), gpu=gpu)
    assert bool(messages("gpu-small", job)) == small


def test_samples_count_more_than_prompts() -> None:
    prompts = {"prompts": ["a", 3, {"prompt": "b"}]}
    samples = {"samples": [{"prompt": "c", "seed": 1}, {"seed": 2}]}
    assert sample_prompts(configured({"sample": prompts})) == [
        (("sample", "prompts", "0"), "a"),
        (("sample", "prompts", "2"), "b"),
    ]
    assert sample_prompts(configured({"sample": prompts | samples})) == [(("sample", "samples", "0"), "c")]


@pytest.mark.parametrize(
    ("prompt", "shown"),
    [
        ("a  dog\nin the rain", "a dog in the rain"),
        ("d" * 60, "d" * 60),
        ("d" * 61, "d" * 57 + "..."),
    ],
)
def test_long_prompts_are_shortened_to_one_line(prompt: str, shown: str) -> None:
    job = configured({"trigger_word": "c4t", "sample": {"prompts": [prompt]}})
    assert messages("prompt-trigger", job) == [f"`{shown}` does not contain the trigger word `c4t`"]


@pytest.mark.parametrize(
    ("trigger", "word"),
    [("“ohwx”", "ohwx"), ('"ohwx"', "ohwx"), ("«ch3lsea cat»", "ch3lsea cat"), ("ohwx", ""), ("ohwx's", "")],
)
def test_quotes_around_the_trigger_word_are_reported(trigger: str, word: str) -> None:
    expected = (
        [f"the trigger word is `{trigger}` with its quotes, not `trigger_word: {word}`"] if word else []
    )
    assert messages("trigger-quotes", configured({"trigger_word": trigger})) == expected


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("p\u0430rk at night", ["`p\u0430rk` only looks like `park` (U+0430 for U+0061)"]),
        ("a p\u0430r\u03ba", []),  # the Greek letter is narrower
        ("a \uff50ark", ["`\uff50ark` only looks like `park` (U+FF50 for U+0070)"]),
        ("park and p\u0430rk", []),
        ("[trigg\u0435r] at night", ["`[trigg\u0435r]` only looks like `[trigger]` (U+0435 for U+0065)"]),
        ("кот спит", []),
        ("zp\u0430rk\u0430", []),
        ("a park", []),
    ],
)
def test_words_that_look_like_the_trigger_word_are_reported(text: str, found: list[str]) -> None:
    job = configured({"trigger_word": "park", "sample": {"prompts": [text]}})
    assert messages("trigger-look-alike", job) == found
    assert messages("trigger-look-alike", replace(job, dataset=captioned(text).dataset)) == 2 * found
    reversed_job = configured({"trigger_word": "p\u0430rk", "sample": {"prompts": ["a park"]}})
    assert messages("trigger-look-alike", reversed_job) == [
        "`park` only looks like `p\u0430rk` (U+0061 for U+0430)"
    ]


@pytest.mark.parametrize(
    ("name", "hint"), [("1.TXT", "; rename it to 1.txt"), ("1.Txt", "; rename it to 1.txt"), ("1.md", "")]
)
def test_a_caption_whose_suffix_has_capitals_gets_its_name(name: str, hint: str) -> None:
    job = Subject("cat", FOLDER, None, DatasetFacts(FOLDER / "dataset", strangers=(name,)))
    [message] = messages("dataset-stranger", job)
    assert message.endswith(f"nor a caption (.txt){hint}")


@pytest.mark.parametrize("folder", ["dataset", "dataset/", "./dataset", "./dataset//"])
def test_spellings_of_the_dataset_folder_are_accepted(folder: str) -> None:
    assert messages("folder-path", configured({"datasets": [{"folder_path": folder}]})) == []


@pytest.mark.parametrize(
    "folder", ["/dataset", "/dataset/", "images", "datasetX", " dataset ", "../dataset", "", None, 7]
)
def test_other_dataset_folders_are_reported(folder: object) -> None:
    job = configured({"datasets": [{"folder_path": "dataset"}, {"folder_path": folder}]})
    assert messages("folder-path", job) == [
        f"datasets[1].folder_path is {'not set' if folder is None else repr(folder)}"
    ]


def test_every_unknown_key_is_reported_with_its_line(tmp_path: Path) -> None:
    (tmp_path / "cat").mkdir()
    text = TRAIN_YML.format(name="cat")
    for old, new in (
        ("        steps: 2000\n", "        stepps: 2000\n        linear: 1\n        lrr: 1\n"),
        (
            "      train:\n",
            "        - folder_path: dataset\n          zzz: 1\n      lr: 1\n      trian: {}\n      train:\n",
        ),
        # Keyword arguments for the network may have any key.
        ("        linear: 16\n", "        linear: 16\n        network_kwargs: [{any: 1}, {thing: 2}]\n"),
        ("        prompts:\n", "        samples: [{prompt: a, sneed: 1}]\n        prompts:\n"),
    ):
        assert text.count(old) == 1
        text = text.replace(old, new)
    (tmp_path / "cat/train.yml").write_text(text, encoding="utf-8")
    job = Subject("cat", tmp_path / "cat", read_trainer_file(tmp_path / "cat"), None)
    found = list(RULES["key-unknown"].check(job))
    assert [(problem.message, text.splitlines()[(problem.line or 0) - 1].strip()) for problem in found] == [
        ("unknown key datasets.1.zzz", "zzz: 1"),
        ("unknown key lr (did you mean `train.lr`?)", "lr: 1"),
        ("unknown key trian (did you mean `train`?)", "trian: {}"),
        ("unknown key train.stepps (did you mean `steps`?)", "stepps: 2000"),
        ("unknown key train.linear (did you mean `network.linear`?)", "linear: 1"),
        ("unknown key train.lrr (did you mean `lr`?)", "lrr: 1"),
        ("unknown key sample.samples.0.sneed (did you mean `seed`?)", "samples: [{prompt: a, sneed: 1}]"),
    ]


SECRET_LINES = [
    "hf_token: abcdefgh1",
    '  - "api-key": abcdefgh1',
    "AWS_SECRET_ACCESS_KEY: 'abcdefgh1'",
    "secret-access-key: abcdefgh1",
]
HARMLESS_LINES = [
    "hf_token: ${HF_TOKEN}",
    "hf_token: short",
    "num_tokens: 12345678901",
    "token: 123456789.0",
    "name: abcdefgh1",
    "tokens: abcdefgh1",
]


@pytest.mark.parametrize("line", SECRET_LINES + HARMLESS_LINES)
def test_secrets_are_recognized_by_their_key(line: str) -> None:
    assert names_a_secret(line) == (line in SECRET_LINES)


def test_secrets_are_found_by_pattern_and_masked() -> None:
    key = "AKIA" + "A1B2" * 4
    text = f"\na {TOKEN}\n\n{key} and s3://me:secret@host"
    kinds = [(2, "Hugging Face token"), (4, "AWS key"), (4, "password in a URL")]
    assert list(find_secrets(text)) == kinds
    assert without_secrets(f"a {TOKEN} or {key}.") == "a (a secret) or (a secret)."


def test_only_named_folders_are_linted_without_declared_jobs(tmp_path: Path) -> None:
    for seed, name in enumerate(("cat", "dog")):
        make_clean_job(tmp_path / "jobs", name, images=7, seed=seed)
    settings = stack(cat={})
    assert [finding.job for finding in lint_jobs(settings, tmp_path, ["dog"]).findings] == ["cat", "dog"]
    report = lint_jobs(settings, tmp_path, ["dog"], declared=False)
    assert (report.jobs, [finding.job for finding in report.findings]) == (["dog"], ["dog"])


def test_each_job_silences_its_own_findings(tmp_path: Path) -> None:
    for seed, name in enumerate(("Cat", "cat")):
        make_clean_job(tmp_path / "jobs", name, images=7, seed=seed)
    few = {"image-few": "all there are"}
    entries = {"Cat": {"lint": {"silence": few}}, "cat": {"lint": {"silence": {**few, "job-case": "x"}}}}
    report = lint_jobs(stack(**entries), tmp_path)
    assert (report.jobs, report.findings) == (["Cat", "cat"], [])
    jobs = tmp_path / "jobs"
    assert [(entry.finding.job, entry.finding.path, entry.reason) for entry in report.silenced] == [
        ("Cat", str(jobs / "Cat/dataset"), "all there are"),
        ("cat", str(jobs / "cat"), "x"),
        ("cat", str(jobs / "cat/dataset"), "all there are"),
    ]
    # A silence applies only to its own job.
    entries["Cat"], entries["cat"] = entries["cat"], entries["Cat"]
    loud = [(finding.job, finding.code) for finding in lint_jobs(stack(**entries), tmp_path).findings]
    assert loud == [("Cat", "silence-unused"), ("cat", "job-case")]


def test_an_unused_silence_is_reported(tmp_path: Path) -> None:
    make_clean_job(tmp_path / "jobs", "cat")
    (found,) = lint_jobs(stack(cat={"lint": {"silence": {"image-few": "a test"}}}), tmp_path).findings
    assert found.job == "cat"
    assert str(found) == (
        "jobs: jobs.cat.lint.silence.image-few silences nothing; an unused entry could hide a mistake made later; remove the entry from the job's lint.silence [silence-unused]"
    )


def test_a_missing_dataset_is_reported_with_a_fix(tmp_path: Path) -> None:
    with pytest.raises(BadInput) as caught:
        read_images(tmp_path / "cat")
    assert str(caught.value) == (
        f"{tmp_path / 'cat/dataset'}: no such folder; a job's images are in its folder `dataset`, and in the other dataset folders that train.yml names; create the folder with images and captions, or correct its name in train.yml [dataset-missing]"
    )


@pytest.mark.parametrize("read", [read_config, read_images])
def test_an_invalid_folder_name_is_reported_with_its_path(
    read: Callable[[Path], object], tmp_path: Path
) -> None:
    folder = make_job(tmp_path, "my cat")
    with pytest.raises(BadInput) as caught:
        read(folder)
    assert [finding.split("; ")[0] for finding in caught.value.findings] == [
        f"{folder}: `my cat` is not a valid job name"
    ]
