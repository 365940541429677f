"""Each rule finds its example mistake; valid folders have no finding; silencing."""

import re
import shutil
from collections.abc import Mapping
from pathlib import Path

import pytest

from flux_training.training.errors import BadInput
from flux_training.training.finding import LintReport
from flux_training.training.jobs.declare import declare_jobs
from flux_training.training.jobs.lint import lint_jobs
from flux_training.training.lint.rules import NEEDED, RULES, images
from flux_training.training.settings import StackSettings, parse_stack_settings
from tests.training.lint_folders import MISTAKES, TOKEN, make_clean_job, stack

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture(scope="session")
def clean(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_clean_job(tmp_path_factory.mktemp("clean"), "cat")


def lint_with(mistake: str, clean: Path, root: Path) -> tuple[LintReport, StackSettings]:
    folder = root / "jobs/cat"
    shutil.copytree(clean, folder)
    settings = MISTAKES[mistake](folder) or stack(cat={})
    return lint_jobs(settings, root), settings


def test_every_rule_has_an_example_mistake() -> None:
    assert MISTAKES.keys() == RULES.keys()
    assert len(RULES) >= 40


@pytest.mark.parametrize("code", MISTAKES)
def test_each_mistake_is_found_and_explained(code: str, clean: Path, tmp_path: Path) -> None:
    report, settings = lint_with(code, clean, tmp_path)
    found = [finding for finding in report.findings if finding.code == code]
    assert found, [str(finding) for finding in report.findings]
    for finding in found:
        assert all([finding.message, finding.rule, finding.fix, finding.path])
        assert str(finding).isprintable()
        assert TOKEN not in str(finding)
        assert finding.severity == RULES[code].severity
    if code in {rule.code for rule in NEEDED}:
        with pytest.raises(BadInput):
            declare_jobs(settings, tmp_path)
    else:
        assert declare_jobs(settings, tmp_path)


@pytest.mark.parametrize(
    "code",
    ["image-cmyk", "image-rotated", "caption-trigger", "learning-rate", "model-path", "prompt-trigger"],
)
def test_a_mistake_is_reported_once(code: str, clean: Path, tmp_path: Path) -> None:
    report, _ = lint_with(code, clean, tmp_path)
    assert [finding.code for finding in report.findings] == [code]


@pytest.mark.parametrize(
    ("code", "text"),
    [
        ("model-path", "name_or_path:"),
        ("learning-rate", "lr: 0.1"),
        ("config-name", '"dog"'),
        ("prompt-trigger", "a dog in the rain"),
        ("key-unknown", "batchsize"),
        ("rank-alpha", "network:"),
        ("config-yaml", "meta: ]"),
        ("config-secret", TOKEN),
    ],
)
def test_a_finding_in_train_yml_names_its_line(code: str, text: str, clean: Path, tmp_path: Path) -> None:
    report, _ = lint_with(code, clean, tmp_path)
    (finding,) = (finding for finding in report.findings if finding.code == code)
    lines = (tmp_path / "jobs/cat/train.yml").read_text(encoding="utf-8").splitlines()
    assert finding.line is not None
    assert text in lines[finding.line - 1]


def test_a_similar_known_key_is_suggested(clean: Path, tmp_path: Path) -> None:
    report, _ = lint_with("key-unknown", clean, tmp_path)
    assert "unknown key train.batchsize (did you mean `batch_size`?)" in report.findings[0].message


def test_more_images_than_the_launcher_reads_are_reported(
    clean: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(images, "MAX_IMAGES", 7)
    shutil.copytree(clean, tmp_path / "jobs/cat")
    (found,) = lint_jobs(stack(cat={}), tmp_path).findings
    assert (found.code, "8 images; a job can have 7" in found.message) == ("dataset-large", True)


def test_clean_folders_have_no_finding(tmp_path: Path) -> None:
    names = [f"job-{number}" for number in range(6)]
    for seed, name in enumerate(names):
        make_clean_job(tmp_path / "jobs", name, images=8 + seed, seed=seed)
    report = lint_jobs(stack(**{name: {} for name in names}), tmp_path)
    assert report.findings == []


def test_the_example_jobs_have_no_finding() -> None:
    report = lint_jobs(stack(**{"chelsea-cat": {}, "coffee-cup": {}}), ROOT)
    assert [str(finding) for finding in report.findings] == []


def silenced(clean: Path, root: Path, mistake: str, silence: Mapping[str, str]) -> LintReport:
    folder = root / "jobs/cat"
    shutil.copytree(clean, folder)
    MISTAKES[mistake](folder)
    return lint_jobs(stack(cat={"lint": {"silence": dict(silence)}}), root)


@pytest.mark.parametrize(
    "code", ["model-path", "image-few", "learning-rate", "key-unknown", "name-case", "config-variable"]
)
def test_a_finding_can_be_silenced_with_a_reason(code: str, clean: Path, tmp_path: Path) -> None:
    report = silenced(clean, tmp_path, code, {code: "as it should be"})
    assert report.findings == []
    assert {(entry.finding.code, entry.reason) for entry in report.silenced} == {(code, "as it should be")}


def test_a_silence_hides_only_its_rule(clean: Path, tmp_path: Path) -> None:
    report = silenced(clean, tmp_path, "model-path", {"image-few": "a test"})
    assert {finding.code for finding in report.findings} == {"model-path", "silence-unused"}


def settings_with(lint: str) -> StackSettings:
    config = {
        "flux-training:cloud": "local",
        "flux-training:storage": '{"bucket": "bucket"}',
        "flux-training:jobs": f'{{"cat": {{"lint": {lint}}}}}',
    }
    return parse_stack_settings("flux-training", config)


@pytest.mark.parametrize(
    ("silence", "words"),
    [
        ('{"image-smal": "x"}', "`image-smal` is not a lint rule (did you mean `image-small`?)"),
        ('{"image-small": " "}', "`image-small` needs a reason"),
        ('{"image-small": ""}', "`image-small` needs a reason"),
        ('{"caption-secret": "it is old"}', "`caption-secret` cannot be silenced"),
        ('{"image-unreadable": "x", "image-smal": "x"}', "`image-unreadable` cannot be silenced"),
        ('["image-small"]', "must be a map"),
    ],
)
def test_invalid_silences_are_rejected(silence: str, words: str) -> None:
    with pytest.raises(BadInput) as caught:
        settings_with(f'{{"silence": {silence}}}')
    assert words in str(caught.value)
    assert "cat.lint" in str(caught.value)


def test_an_unknown_lint_key_is_rejected_with_a_suggestion() -> None:
    with pytest.raises(BadInput, match=r"did you mean `silence`"):
        settings_with('{"silense": {}}')


def test_only_needed_and_secret_rules_cannot_be_silenced() -> None:
    loud = {rule.code for rule in RULES.values() if rule.always}
    assert loud == {rule.code for rule in NEEDED} | {"caption-secret", "config-secret", "silence-unused"}


@pytest.mark.parametrize(
    ("before", "after", "code", "words"),
    [
        (" steps:", " stepz:", "steps-invalid", "train.steps is not set; `stepz` looks like a misspelling of `steps`"),
        (" train:", " trian:", "steps-invalid", "train.steps is not set; `trian` looks like a misspelling of `train`"),
        (" name_or_path: *", "#", "model-path", "model.name_or_path is not set"),
        (" training_folder: ", "#", "training-folder", "training_folder is not set"),
    ],
)  # fmt: skip
def test_a_setting_that_is_missing_is_not_none(
    before: str, after: str, code: str, words: str, clean: Path, tmp_path: Path
) -> None:
    shutil.copytree(clean, tmp_path / "jobs/cat")
    path = tmp_path / "jobs/cat/train.yml"
    text, number = re.subn(f"(?m)^( *){before.replace('*', '.*')}", rf"\1{after}", path.read_text(), count=1)
    assert number == 1
    path.write_text(text)
    messages = [one.message for one in lint_jobs(stack(cat={}), tmp_path).findings if one.code == code]
    assert [message for message in messages if message.startswith(words)]
    assert not any("None" in message for message in messages)


def test_findings_in_a_shared_dataset_are_reported_once(clean: Path, tmp_path: Path) -> None:
    for name in ("cat", "dog"):
        shutil.copytree(clean, tmp_path / "jobs" / name)
        path = tmp_path / "jobs" / name / "train.yml"
        path.write_text(path.read_text().replace('"cat"', f'"{name}"'))
    shutil.rmtree(tmp_path / "jobs/dog/dataset")
    (tmp_path / "jobs/cat/dataset/00001.jpg").write_text("no image")
    report = lint_jobs(stack(cat={}, dog={"dataset": "cat"}), tmp_path)
    assert [finding.code for finding in report.findings] == ["image-unreadable"]
