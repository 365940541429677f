"""`flux list`, `open` and `export`: commands for the runs in outputs/."""

import hashlib
import json
import shutil
import sys
import webbrowser
from collections.abc import Callable
from pathlib import Path

import pytest
import rich_click as click
import yaml

from flux_training.commands.export.card import Card, card_text, licence_fields
from flux_training.commands.export.command import export
from flux_training.commands.jobs.list import list_command
from flux_training.commands.jobs.sweep import sweep
from flux_training.commands.main import main
from flux_training.commands.report.open import open_command, why_no_browser_opens
from flux_training.training.errors import BadInput
from flux_training.training.models.table import MODELS
from tests.commands.runs_folder import HOSTILE, make_run, write_json
from tests.support.flux import make_checkout
from tests.training.job_folders import make_job

Run = Callable[..., str]
WEIGHTS = b"weights"
DIGEST = hashlib.sha256(WEIGHTS).hexdigest()


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A checkout whose stack declares `first`, with the job folders `first` and `other`."""
    root = make_checkout(tmp_path / "checkout")
    monkeypatch.chdir(root)
    make_job(root / "jobs", "first", images=2)
    make_job(root / "jobs", "other", images=1)
    return root


def finished_run(checkout: Path, run_id: str = "a" * 12, **more: str) -> Path:
    """A fetched run of `first` with weights that were verified, and one checkpoint, of step 10."""
    folder = make_run(checkout / "outputs/dev", "first", run_id, **more)
    (folder / "first.safetensors").write_bytes(WEIGHTS)
    write_json(folder / "done.json", {"sha256": DIGEST, "size": len(WEIGHTS), "steps": 20})
    (folder / "checkpoints").mkdir()
    (folder / "checkpoints/first_000000010.safetensors").write_bytes(b"earlier")
    return folder


def metadata_of(card: str) -> dict[str, object]:
    parsed = yaml.safe_load(card.split("---\n")[1])
    assert isinstance(parsed, dict)
    return parsed


def test_all_jobs_are_listed(checkout: Path, run: Run) -> None:
    finished_run(checkout)
    first, other = run(list_command).splitlines()[1:]
    assert first.split() == ["first", "yes", "2", "2", "20", "1", "a" * 12, "completed"]
    assert other.split() == ["other", "no", "1", "1", "20", "0", "-"]
    jobs = json.loads(run(list_command, "--json"))["jobs"]
    assert [(job["name"], job["declared"], len(job["runs"])) for job in jobs] == [
        ("first", True, 1),
        ("other", False, 0),
    ]


def test_the_settings_that_a_sweep_changed_are_listed(run: Run) -> None:
    run(sweep, "first", "--set", "train.lr=1e-4,2e-4", "--set", "train.steps=20,40")
    assert "first-lr2e-4-steps40: first with learning rate 1e-4 → 2e-4, steps 20 → 40" in run(list_command)
    jobs = {job["name"]: job for job in json.loads(run(list_command, "--json"))["jobs"]}
    assert jobs["first-lr2e-4-steps20"]["changes"] == ["learning rate 1e-4 → 2e-4"]
    assert jobs["first"]["changes"] == jobs["other"]["changes"] == []


def test_steps_are_those_that_the_stack_would_train(checkout: Path, run: Run) -> None:
    path = checkout / "Pulumi.dev.yaml"
    path.write_text(path.read_text().replace("config:\n", "config:\n  flux-training:maxSteps: 15\n", 1))
    printed = run(sweep, "first", "--set", "train.steps=10,40", "--dry-run")
    assert "25 steps in total" in printed
    assert "limits each of these trainings to 15 steps" in printed
    assert "limits each training to 15 steps" in run(list_command)
    assert {job["steps"] for job in json.loads(run(list_command, "--json"))["jobs"]} == {15}


def test_the_runs_of_a_job_are_listed(checkout: Path, run: Run) -> None:
    assert run(list_command, "first") == (
        "first: outputs/dev/ has no run of it; `./flux fetch first` gets it if the stack has trained it already; "
        "otherwise `make up` trains it\n"
    )
    assert run(list_command, "other").endswith(
        "`make up` does not train it: it is not declared, or has `skip: true`\n"
    )
    finished_run(checkout)
    finished_run(checkout, "b" * 12, created="2026-11-24T00:00:00+00:00")
    rows = [line.split() for line in run(list_command, "first").splitlines()[1:3]]
    assert rows[0] == ["a" * 12, "2026-11-23", "00:00", "completed", "20/20", "0.0500", "$0.43"]
    assert rows[1][0] == "b" * 12


def test_the_runs_of_a_job_whose_folder_was_deleted_are_listed(checkout: Path, run: Run) -> None:
    finished_run(checkout)
    shutil.rmtree(checkout / "jobs/first")
    assert run(list_command).splitlines()[-1] == (
        "outputs/dev/ also has runs of jobs without a folder: first; `./flux list first` lists them"
    )
    assert run(list_command, "first").splitlines()[1].split()[0] == "a" * 12
    with pytest.raises(BadInput, match="fist: no folder"):
        run(list_command, "fist")


def test_open_makes_the_page_and_shows_it(checkout: Path, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[str] = []
    monkeypatch.setattr(webbrowser, "open", lambda address: bool(opened.append(address)))
    page = finished_run(checkout) / "report.html"
    monkeypatch.delenv("DISPLAY", raising=False)
    monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)
    monkeypatch.setattr(sys, "platform", "linux")
    assert "this terminal has no display" in run(open_command, "first")
    assert (opened, page.is_file()) == ([page.as_uri()], True)
    with pytest.raises(BadInput, match="--run b: no such run"):
        run(open_command, "first", "--run", "b")


@pytest.mark.parametrize(
    ("environ", "platform", "browsers", "words"),
    [
        ({}, "linux", ["chromium"], "No browser was opened: this terminal has no display"),
        ({}, "linux", [], "No browser was opened: this terminal has no display"),
        ({"DISPLAY": ":0"}, "linux", ["firefox"], "The browser could not be started."),
        ({"WAYLAND_DISPLAY": "wayland-0"}, "linux", [], "No browser was found on this machine."),
        ({}, "darwin", ["firefox"], "The browser could not be started."),
    ],
)
def test_open_says_why_no_browser_opens(
    environ: dict[str, str],
    platform: str,
    browsers: list[str],
    words: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: name if name in browsers else None)
    assert why_no_browser_opens(environ, platform).startswith(words)


def test_an_export_has_weights_card_and_samples(checkout: Path, run: Run, tmp_path: Path) -> None:
    finished_run(checkout)
    target = tmp_path / "published by me"
    printed = run(export, "first", "--to", target)
    assert f"`hf upload first '{target}'`" in printed
    files = sorted(str(path.relative_to(target)) for path in target.rglob("*") if path.is_file())
    samples = ["images/01.jpg", "images/02.jpg"]
    assert files == ["README.md", "first.preview.jpg", "first.safetensors", *samples]
    assert (target / "first.safetensors").read_bytes() == WEIGHTS
    card = (target / "README.md").read_text(encoding="utf-8")
    metadata = metadata_of(card)
    assert metadata["base_model"] == "black-forest-labs/FLUX.1-dev"
    assert metadata["license_name"] == "flux-1-dev-non-commercial-license"
    assert metadata["instance_prompt"] == "tr1gger"
    assert metadata["widget"] == [
        {"text": "a photo of tr1gger", "output": {"url": "images/01.jpg"}},
        {"text": "tr1gger in the rain", "output": {"url": "images/02.jpg"}},
    ]
    assert f"| SHA-256 | `{DIGEST}` |" in card
    with pytest.raises(BadInput, match="exists and is not overwritten"):
        run(export, "first", "--to", target)


def test_weights_of_the_stand_in_are_not_offered_for_publishing(
    checkout: Path, run: Run, tmp_path: Path
) -> None:
    path = finished_run(checkout) / "run.json"
    write_json(path, {**json.loads(path.read_text()), "stand_in": True})
    printed = run(export, "first", "--to", tmp_path / "tried")
    assert "hf upload" not in printed
    card = (tmp_path / "tried/README.md").read_text(encoding="utf-8")
    assert "The stand-in trainer of a local cloud made these weights" in card


def test_both_files_of_a_model_with_two_noise_stages_are_exported(
    checkout: Path, run: Run, tmp_path: Path
) -> None:
    folder = finished_run(checkout)
    (folder / "first.safetensors").unlink()
    for stage in ("high_noise", "low_noise"):
        (folder / f"first_{stage}.safetensors").write_bytes(stage.encode())
        (folder / f"checkpoints/first_000000010_{stage}.safetensors").write_bytes(b"early " + stage.encode())
    digests = {stage: hashlib.sha256(stage.encode()).hexdigest() for stage in ("high_noise", "low_noise")}
    write_json(folder / "done.json", {"sha256": "0" * 64, "steps": 20, "stages": digests})
    run(export, "first", "--to", tmp_path / "published")
    card = (tmp_path / "published/README.md").read_text(encoding="utf-8")
    assert "put `first_high_noise.safetensors` and `first_low_noise.safetensors` into" in card
    for stage, digest in digests.items():
        assert (tmp_path / f"published/first_{stage}.safetensors").read_bytes() == stage.encode()
        assert f"| SHA-256 | `{digest}` |" in card
    run(export, "first", "--to", tmp_path / "early", "--step", 10)
    assert (tmp_path / "early/first_low_noise.safetensors").read_bytes() == b"early low_noise"
    (folder / "checkpoints/first_000000010_low_noise.safetensors").unlink()
    with pytest.raises(BadInput, match=r"lacks first_low_noise\.safetensors, one of its two files"):
        run(export, "first", "--to", tmp_path / "half", "--step", 10)
    (folder / "first_low_noise.safetensors").write_bytes(b"swapped")
    with pytest.raises(BadInput, match=r"first_low_noise\.safetensors is not the file that was"):
        run(export, "first", "--to", tmp_path / "x")


def test_a_licence_whose_file_is_not_known_is_linked_by_the_models_page() -> None:
    links = {name: licence_fields(MODELS[name]).get("license_link") for name in ("flux1-dev", "ltx2", "sdxl")}
    assert links == {
        "flux1-dev": "https://huggingface.co/black-forest-labs/FLUX.1-dev/blob/main/LICENSE.md",
        "ltx2": "https://huggingface.co/Lightricks/LTX-2",
        "sdxl": None,
    }


def test_a_checkpoint_is_exported_with_its_samples(checkout: Path, run: Run, tmp_path: Path) -> None:
    folder = finished_run(checkout)
    run(export, "first", "--to", tmp_path / "early", "--step", 10)
    assert (tmp_path / "early/first.safetensors").read_bytes() == b"earlier"
    of_step_10 = next((folder / "samples").glob("*__000000010_0.jpg"))
    assert (tmp_path / "early/images/01.jpg").read_bytes() == of_step_10.read_bytes()
    # The run has finished, and its checkpoints were fetched: another fetch would do nothing.
    with pytest.raises(BadInput, match=r"no checkpoint of this step; .* has those of 10$"):
        run(export, "first", "--to", tmp_path / "x", "--step", 11)
    (folder / "checkpoints/first_000000010.safetensors").unlink()
    with pytest.raises(
        BadInput, match=r"none was fetched; `./flux fetch first --run a{12} --checkpoints` gets"
    ):
        run(export, "first", "--to", tmp_path / "x", "--step", 10)


def test_weights_that_the_bucket_lacks_are_not_to_be_fetched(
    checkout: Path, run: Run, tmp_path: Path
) -> None:
    folder = finished_run(checkout)
    (folder / "first.safetensors").unlink()
    with pytest.raises(BadInput, match=r"no final weights; `./flux fetch first --run a{12}` gets them"):
        run(export, "first", "--to", tmp_path / "x")
    (folder / "done.json").unlink()
    with pytest.raises(BadInput, match="no final weights; --step exports a checkpoint: 10"):
        run(export, "first", "--to", tmp_path / "x")
    (folder / "checkpoints/first_000000010.safetensors").unlink()
    with pytest.raises(
        BadInput, match=r"had not finished; `./flux fetch first --run a{12} --checkpoints` gets"
    ):
        run(export, "first", "--to", tmp_path / "x")
    record = json.loads((folder / "run.json").read_text(encoding="utf-8"))
    (folder / "run.json").write_text(json.dumps({**record, "state": "canceled"}), encoding="utf-8")
    with pytest.raises(BadInput, match=r"it was canceled at step \d+; .* that it had saved, if any"):
        run(export, "first", "--to", tmp_path / "x")


@pytest.mark.parametrize(
    ("job", "said"),
    [
        ("fir*", "; write the names of the jobs: first"),
        ("firts", "did you mean `first`"),
        ("a/b*", ", and this is no name of a job; it has runs of first"),
        ("owl", "; `./flux fetch owl` gets it if the stack has trained such a job"),
    ],
)
def test_nothing_is_to_be_fetched_for_a_pattern_or_a_misspelling(
    checkout: Path, run: Run, tmp_path: Path, job: str, said: str
) -> None:
    finished_run(checkout)
    with pytest.raises(BadInput) as caught:
        run(export, job, "--to", tmp_path / "x")
    assert said in str(caught.value)
    assert ("flux fetch" in str(caught.value)) == (job == "owl")


@pytest.mark.parametrize("content", [None, b"swapped"])
def test_unverified_weights_are_not_exported(
    checkout: Path, run: Run, tmp_path: Path, content: bytes | None
) -> None:
    weights = finished_run(checkout) / "first.safetensors"
    if content is None:
        weights.unlink()
    else:
        weights.write_bytes(content)
    with pytest.raises(BadInput, match="no final weights" if content is None else "not the file that was"):
        run(export, "first", "--to", tmp_path / "x")
    assert not list(tmp_path.glob("*x*"))


def test_a_hostile_run_cannot_change_the_card(checkout: Path, run: Run, tmp_path: Path) -> None:
    config = finished_run(checkout) / "train.yml"
    hostile = HOSTILE + "\n---\nlicense: mit\n`|`"
    text = config.read_text().replace('"tr1gger"', json.dumps(hostile)).replace("lr: 1e-4", 'lr: "a|b`"')
    config.write_text(text)
    run(export, "first", "--to", tmp_path / "x")
    card = (tmp_path / "x/README.md").read_text(encoding="utf-8")
    assert metadata_of(card)["license"] == "other"
    body = card.split("---\n", 2)[2]
    for line in body.splitlines():
        outside_code = "".join(line.split("`")[::2])
        assert "<script" not in outside_code or line.startswith("image = pipeline(")


@pytest.mark.parametrize(
    ("section", "base", "licence", "task"),
    [
        ("{is_flux: true, name_or_path: black-forest-labs/FLUX.1-schnell}", "black-forest-labs/FLUX.1-schnell", "apache-2.0", "text-to-image"),
        ("{arch: wan21, name_or_path: /model}", None, None, "text-to-video"),
        ("{arch: flux_kontext, name_or_path: /model}", None, None, "image-to-image"),
        ("{arch: sdxl, name_or_path: stabilityai/stable-diffusion-xl-base-1.0}", "stabilityai/stable-diffusion-xl-base-1.0", "openrail++", "text-to-image"),
        ("{is_flux: true, name_or_path: me/finetune}", "me/finetune", None, "text-to-image"),
    ],
)  # fmt: skip
def test_the_card_has_the_licence_of_the_model(
    section: str, base: str | None, licence: str | None, task: str
) -> None:
    config = yaml.safe_load(f"config: {{process: [{{model: {section}}}]}}")
    card = Card("a", "b" * 12, 10, {"a.safetensors": DIGEST}, "", config, 3, [])
    metadata = metadata_of(card_text(card))
    assert (metadata.get("base_model"), metadata.get("license"), metadata["pipeline_tag"]) == (
        base,
        licence,
        task,
    )


@pytest.mark.parametrize("name", ["flux1-schnell", "qwen-image", "wan21-14b", "z-image", "z-image-turbo"])
def test_the_card_names_the_weights_that_the_image_held(name: str) -> None:
    model = MODELS[name]
    config = {"config": {"process": [{"model": {"arch": model.arch, "name_or_path": "/model"}}]}}
    card = Card("a", "b" * 12, 10, {"a.safetensors": DIGEST}, "", config, 3, [], model.weights)
    metadata = metadata_of(card_text(card))
    assert (metadata["base_model"], metadata["license"]) == (model.weights, "apache-2.0")


def test_an_unknown_command_is_reported_with_the_nearest_name() -> None:
    with pytest.raises(click.UsageError, match=r"there is no command 'plna' \(did you mean `plan`\?\)"):
        main.main(["plna"], standalone_mode=False)
