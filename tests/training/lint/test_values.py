"""Where lint's rules draw the line, value by value, and what their findings say of place and value."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
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
from flux_training.training.lint.check import check
from flux_training.training.lint.document import lint_document
from flux_training.training.lint.registry import Area, Rule, Subject
from flux_training.training.lint.rules import RULES
from flux_training.training.lint.rules.captions import t5_tokens
from flux_training.training.lint.rules.images import resolutions
from flux_training.training.lint.rules.options import prompts
from flux_training.training.lint.secret_patterns import find_secrets, names_a_secret, without_secrets
from flux_training.training.train_yml.trainer_config import TrainerFile, read_trainer_file
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
def test_a_caption_is_taken_for_four_tokens_in_three_words_or_one_in_four_signs(
    text: str, tokens: int
) -> None:
    assert t5_tokens(text) == tokens


def test_a_caption_may_have_as_many_tokens_as_flux_reads() -> None:
    assert messages("caption-long", captioned("a " * 384)) == []
    assert messages("caption-long", captioned("a " * 385)) == ["about 514 tokens"]


@pytest.mark.parametrize("text", ["one\ttwo\r\nthree", "café", "猫 🐈\u200d⬛", "a\u00a0b", "\u200eא"])
def test_what_people_write_is_not_garbled(text: str) -> None:
    assert messages("caption-garbled", captioned(text)) == []


@pytest.mark.parametrize("sign", ["\x00", "\x1b", "\x85", "\ue000", "\u0378", "\ufffd"])
def test_what_nobody_can_see_is_garbled(sign: str) -> None:
    (problem,) = RULES["caption-garbled"].check(captioned(f"one\ntwo{sign}{sign}"))
    assert problem == Problem("jobs/cat/dataset/1.txt", f"contains the character U+{ord(sign):04X}", 2)


def rule_saying(code: str, *problems: Problem, text: str = "why") -> Rule:
    return Rule(code, "area", "warning", text, "mend", lambda _job: problems)


def test_findings_are_in_the_order_of_path_and_line_the_whole_file_first() -> None:
    rules = [
        rule_saying("a", Problem("x", "m", 1), Problem("x", "m", 2)),
        rule_saying("b", Problem("x", "m"), Problem("w", "m", 3)),
    ]
    found = check(Subject("cat", FOLDER, None, None), rules)
    assert [(finding.path, finding.line, finding.code) for finding in found] == [
        ("w", 3, "b"),
        ("x", None, "b"),
        ("x", 1, "a"),
        ("x", 2, "a"),
    ]


def test_a_job_of_which_nothing_could_be_read_breaks_no_rule_about_what_is_in_it() -> None:
    assert check(Subject("cat", FOLDER, None, None)) == []
    assert [finding.code for finding in check(captioned("a cat"))] == ["image-few"]


def test_what_a_rule_says_stays_in_its_cell_of_the_document(monkeypatch: pytest.MonkeyPatch) -> None:
    area = Area("odd", [rule_saying("odd-rule", text="a|b <c>")])
    monkeypatch.setattr(document, "AREAS", [area])
    assert lint_document().endswith("| `odd-rule` | warning | a\\|b &lt;c> | mend |\n")


@pytest.mark.parametrize(
    ("datasets", "sides"),
    [
        ([{}], [512]),
        ([{"resolution": 768}], [768]),
        ([{"resolution": [512, 1024]}, {}, {"resolution": [256]}], [512, 1024, 512, 256]),
        ([{"resolution": ["x", 0, 640]}], [640]),
        ([], []),
    ],
)
def test_the_resolutions_of_all_datasets(datasets: Sequence[Mapping[str, Any]], sides: list[int]) -> None:
    assert resolutions(configured({"datasets": datasets})) == sides


@pytest.mark.parametrize(
    ("network", "said"),
    [
        ({"linear": 16}, []),
        ({"rank": 16}, []),
        ({"linear": 512}, ["the rank is 512"]),
        ({"rank": 512}, ["the rank is 512"]),
        # As the trainer has it: `rank` goes before.
        ({"rank": 512, "linear": 16}, ["the rank is 512"]),
    ],
)
def test_the_rank_is_read_under_both_its_names(network: Mapping[str, int], said: list[str]) -> None:
    assert messages("rank-unusual", configured({"network": network})) == said


@pytest.mark.parametrize(("gpu", "small"), [("X (23 GB)", True), ("X (24 GB)", False), ("X (25 GB)", False)])
def test_a_gpu_that_has_just_enough_is_not_small(gpu: str, small: bool) -> None:
    job = replace(configured({"type": "sd_trainer"}), gpu=gpu)
    assert bool(messages("gpu-small", job)) == small


def test_prompts_are_read_from_both_keys_that_the_trainer_reads() -> None:
    sample = {"prompts": ["a", 3, {"prompt": "b"}], "samples": [{"prompt": "c", "seed": 1}, {"seed": 2}]}
    assert prompts(configured({"sample": sample})) == [
        (("sample", "prompts", "0"), "a"),
        (("sample", "prompts", "2"), "b"),
        (("sample", "samples", "0"), "c"),
    ]
    assert prompts(configured({"sample": {"prompts": "a"}})) == []


@pytest.mark.parametrize(
    ("prompt", "shown"),
    [
        ("a  dog\nin the rain", "a dog in the rain"),
        ("d" * 60, "d" * 60),
        ("d" * 61, "d" * 57 + "..."),
    ],
)
def test_a_prompt_is_shown_on_one_line_and_not_too_long(prompt: str, shown: str) -> None:
    job = configured({"trigger_word": "c4t", "sample": {"prompts": [prompt]}})
    assert messages("prompt-trigger", job) == [f"`{shown}` does not contain the trigger word `c4t`"]


@pytest.mark.parametrize("folder", ["dataset", "dataset/", "./dataset", "./dataset//"])
def test_the_dataset_may_be_written_as_paths_are(folder: str) -> None:
    assert messages("folder-path", configured({"datasets": [{"folder_path": folder}]})) == []


@pytest.mark.parametrize(
    "folder", ["/dataset", "/dataset/", "dataset1", "datasetX", " dataset ", "../dataset", "", None, 7]
)
def test_another_folder_is_not_the_dataset(folder: object) -> None:
    job = configured({"datasets": [{"folder_path": "dataset"}, {"folder_path": folder}]})
    assert messages("folder-path", job) == [f"datasets[1].folder_path is {folder!r}"]


def test_every_unknown_key_is_named_with_its_place_and_line(tmp_path: Path) -> None:
    (tmp_path / "cat").mkdir()
    text = TRAIN_YML.format(name="cat")
    for old, new in (
        ("        steps: 2000\n", "        stepps: 2000\n        lrr: 1\n"),
        (
            "      train:\n",
            "        - folder_path: dataset\n          zzz: 1\n      trian: {}\n      train:\n",
        ),
        # What is handed on as it stands may hold anything.
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
        ("unknown key trian (did you mean `train`?)", "trian: {}"),
        ("unknown key train.stepps (did you mean `steps`?)", "stepps: 2000"),
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
def test_a_key_says_that_a_secret_stands_behind_it(line: str) -> None:
    assert names_a_secret(line) == (line in SECRET_LINES)


def test_secrets_are_found_with_their_line_and_kind_and_shown_nowhere() -> None:
    key = "AKIA" + "A1B2" * 4
    text = f"\na {TOKEN}\n\n{key} and s3://me:secret@host"
    kinds = [(2, "Hugging Face token"), (4, "AWS key"), (4, "password in a URL")]
    assert list(find_secrets(text)) == kinds
    assert without_secrets(f"a {TOKEN} or {key}.") == "a (a secret) or (a secret)."


def test_without_what_is_declared_only_the_named_folders_are_looked_at(tmp_path: Path) -> None:
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
    # What one job silences is no mistake of another's.
    entries["Cat"], entries["cat"] = entries["cat"], entries["Cat"]
    loud = [(finding.job, finding.code) for finding in lint_jobs(stack(**entries), tmp_path).findings]
    assert loud == [("Cat", "silence-unused"), ("cat", "job-case")]


def test_a_silence_that_hides_nothing_is_named_with_its_job_and_rule(tmp_path: Path) -> None:
    make_clean_job(tmp_path / "jobs", "cat")
    (found,) = lint_jobs(stack(cat={"lint": {"silence": {"image-few": "a test"}}}), tmp_path).findings
    assert found.job == "cat"
    assert str(found) == (
        "jobs: jobs.cat.lint.silence.image-few silences nothing; it would hide a mistake made later; remove it from the job's lint.silence [silence-unused]"
    )


def test_a_dataset_that_is_missing_is_named_with_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(BadInput) as caught:
        read_images(tmp_path / "cat")
    assert str(caught.value) == (
        f"{tmp_path / 'cat/dataset'}: no such folder; a job's images are in its folder `dataset`; create it, with the images and their captions [dataset-missing]"
    )


@pytest.mark.parametrize("read", [read_config, read_images])
def test_a_folder_whose_name_is_none_is_named_with_its_place(
    read: Callable[[Path], object], tmp_path: Path
) -> None:
    folder = make_job(tmp_path, "my cat")
    with pytest.raises(BadInput) as caught:
        read(folder)
    assert [finding.split("; ")[0] for finding in caught.value.findings] == [
        f"{folder}: `my cat` is not a valid job name"
    ]
