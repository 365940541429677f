"""The stand-in trainer as a process: ai-toolkit's interface, files and faults, and that the loss falls."""

import contextlib
import io
import json
import os
import re
import shutil
import signal
import struct
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import localcloud
import numpy as np
import pytest
import yaml
from PIL import Image, ImageDraw
from safetensors import safe_open
from safetensors.numpy import load_file

TRAINER = Path(localcloud.__file__).parent / "trainer"
KEY = re.compile(r"transformer\.(single_)?transformer_blocks\.\d\.[a-z_.0-9]+\.lora_[AB]\.weight")


def picture(number: int) -> bytes:
    """A small JPEG: a disc whose position and colour depend on `number`."""
    image = Image.new("RGB", (96, 96), (20 * number, 90, 160))
    x = 10 + 9 * number
    ImageDraw.Draw(image).ellipse((x, 20, x + 40, 60), fill=(230, 40 * number % 256, 30))
    data = io.BytesIO()
    image.save(data, "JPEG", quality=90)
    return data.getvalue()


def train_config(steps: int, save_every: int, **changes: Any) -> dict[str, Any]:
    """A configuration that ai-toolkit would accept; `changes` are merged into its sections."""
    process = {
        "type": "sd_trainer",
        "training_folder": "output",
        "trigger_word": "d1sc",
        "network": {"type": "lora", "linear": 8, "linear_alpha": 8},
        "save": {"dtype": "float16", "save_every": save_every, "max_step_saves_to_keep": 20},
        "datasets": [{"folder_path": "dataset", "caption_ext": "txt", "resolution": [512]}],
        "train": {"batch_size": 1, "steps": steps, "lr": 1e-4, "dtype": "bf16"},
        "model": {"name_or_path": "/model", "is_flux": True, "quantize": True},
    }
    prompts = {"width": 256, "height": 256, "prompts": ["[trigger]"], "neg": "", "seed": 1}
    process["sample"] = {"sample_every": save_every, **prompts}
    for section, values in changes.items():
        process[section] = {**process[section], **values} if isinstance(values, dict) else values
    return {"job": "extension", "config": {"name": "disc", "process": [process]}, "meta": {"name": "[name]"}}


def prepare(home: Path, *, steps: int = 24, save_every: int = 10, **changes: Any) -> Path:
    """Write the trainer, three captioned images and a configuration; return the output folder of the job `disc`."""
    home.mkdir(exist_ok=True)
    for path in TRAINER.glob("*.py"):
        shutil.copy(path, home)
    (home / "dataset").mkdir()
    for number in range(1, 4):
        (home / f"dataset/{number}.jpg").write_bytes(picture(number))
        (home / f"dataset/{number}.txt").write_text(f"disc number {number}")
    (home / "train.yml").write_text(yaml.safe_dump(train_config(steps, save_every, **changes)))
    return home / "output" / "disc"


def start(home: Path, **environment: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "run.py", "train.yml"],
        cwd=home,
        env={"PATH": os.environ["PATH"]} | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        # Tests started in the background ignore SIGINT, and children inherit that.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )


def train(home: Path, **environment: str) -> tuple[int, str]:
    """Run to the end; return exit code and output."""
    process = start(home, **environment)
    out, _ = process.communicate(timeout=60)
    return process.returncode, out


def losses(out: str) -> list[float]:
    return [float(value) for value in re.findall(r"loss: (\S+?)\]", out)]


def metadata(path: Path) -> dict[str, str]:
    with safe_open(path, "numpy") as file:
        found: dict[str, str] = file.metadata()
        return found


def test_files_keys_and_loss(tmp_path: Path) -> None:
    output = prepare(tmp_path, steps=60, save_every=25)
    code, out = train(tmp_path)
    assert code == 0, out
    names = sorted(path.name for path in output.iterdir())
    assert names == [
        *("config.yaml", "disc.safetensors", "disc_000000025.safetensors", "disc_000000050.safetensors"),
        *("optimizer.pt", "samples"),
    ]
    samples = sorted(path.name for path in (output / "samples").glob("*.jpg"))
    assert [re.sub(r"^\d{13}__", "", name) for name in samples] == [
        *("000000000_0.jpg", "000000025_0.jpg", "000000050_0.jpg", "000000060_0.jpg")
    ]
    pictures = [np.asarray(Image.open(output / "samples" / name), np.float32) for name in samples]
    assert pictures[0].shape == (256, 256, 3)
    assert np.abs(pictures[0] - pictures[-1]).mean() > 10
    weights = load_file(output / "disc.safetensors")
    assert all(KEY.fullmatch(name) for name in weights)
    assert all(np.isfinite(value.astype(np.float32)).all() for value in weights.values())
    assert {value.dtype for value in weights.values()} == {np.dtype(np.float16)}
    assert {value.shape[0] for name, value in weights.items() if ".lora_A." in name} == {8}
    marks = metadata(output / "disc.safetensors")
    assert json.loads(marks["training_info"])["step"] == 60
    assert (marks["name"], marks["format"], marks["ss_output_name"]) == ("disc", "pt", "disc")
    assert len(marks["sshs_model_hash"]) == 64
    assert (output / "disc.safetensors").stat().st_mode & 0o777 == 0o600
    assert not list(output.glob(".tmp*"))
    assert "\x1b[A" in out
    assert json.loads(metadata(output / "disc_000000025.safetensors")["training_info"])["step"] == 25
    curve = losses(out)
    assert np.mean(curve[-20:]) < 0.8 * np.mean(curve[:20])
    assert re.search(r"disc: 100%\|██████████\| 60/60 \[\d\d:\d\d<00:00, .*lr: 1.0e-04 loss: \d", out)


def test_another_kind_has_its_own_tensor_names_and_video_samples(tmp_path: Path) -> None:
    model = {"name_or_path": "Wan-AI/Wan2.1-T2V-1.3B-Diffusers", "arch": "wan21", "is_flux": False}
    output = prepare(tmp_path, steps=6, save_every=4, model=model, sample={"num_frames": 5})
    code, out = train(tmp_path)
    assert code == 0, out
    name = re.compile(r"diffusion_model\.blocks\.[012]\.ffn\.[02]\.lora_[AB]\.weight")
    weights = load_file(output / "disc.safetensors")
    assert len(weights) == 12
    assert all(name.fullmatch(one) for one in weights)
    assert metadata(output / "disc.safetensors")["ss_base_model_version"] == "wan_2.1"
    samples = sorted((output / "samples").iterdir())
    assert {path.suffix for path in samples if path.is_file()} == {".webp"}
    with Image.open(next(path for path in samples if path.suffix == ".webp")) as video:
        assert video.n_frames == 2  # type: ignore[attr-defined]  # only animations have it
    (output / "disc.safetensors").unlink()
    code, out = train(tmp_path)
    assert "Found step 4 in metadata" in out


def test_the_result_depends_on_data_seed_and_settings_and_on_nothing_else(tmp_path: Path) -> None:
    quick = {"sample": {"prompts": []}}
    changes: dict[str, dict[str, Any]] = {
        "first": {},
        "again": {},
        "seed": {"training_seed": 7},
        "rate": {"train": {"lr": 2e-4}},
        "batch": {"train": {"batch_size": 2}},
        "data": {},
        "caption": {},
    }
    results = {}
    for name, change in changes.items():
        output = prepare(tmp_path / name, steps=6, **(quick | {"training_seed": 1} | change))
        if name == "data":
            (tmp_path / name / "dataset/2.jpg").write_bytes(picture(9))
        if name == "caption":
            (tmp_path / name / "dataset/2.txt").write_text("something else")
        assert train(tmp_path / name)[0] == 0
        results[name] = (output / "disc.safetensors").read_bytes()
    assert results.pop("again") == results["first"]
    assert len(set(results.values())) == len(results)


def test_batches_can_be_skipped_and_losses_lost(tmp_path: Path) -> None:
    prepare(tmp_path, steps=8, sample={"prompts": []})
    code, out = train(tmp_path, SKIPPED_STEPS="2,3,5", NAN_STEPS="6")
    assert code == 0
    assert re.findall(r"skipping batch \d/3", out) == [f"skipping batch {n}/3" for n in (1, 2, 1)]
    assert out.count("loss is nan") == 1
    prepare(tmp_path / "fails")
    code, out = train(tmp_path / "fails", SKIPPED_STEPS="1,2,3,4")
    assert (code, "OOM during training step 3 times in a row" in out) == (1, True)


@pytest.mark.parametrize(
    ("sample", "count"),
    [({"prompts": "abc"}, 3), ({"prompts": ["a", "b"], "samples": [{"prompt": "c"}]}, 1)],
)
def test_samples_count_more_than_prompts_and_a_text_is_a_list(
    sample: dict[str, Any], count: int, tmp_path: Path
) -> None:
    output = prepare(tmp_path, steps=1, sample={**sample, "sample_every": 0})
    assert train(tmp_path)[0] == 0
    assert len(list((output / "samples").glob("*__000000001_*.jpg"))) == count


@pytest.mark.parametrize("sample", [{"neg": False}, {"neg": None}, {"samples": [{"prompt": "a", "neg": 5}]}])
def test_a_sample_without_a_negative_prompt_ends_the_run(sample: dict[str, Any], tmp_path: Path) -> None:
    prepare(tmp_path, steps=1, sample=sample)
    code, out = train(tmp_path)
    assert (code, "text input must be of type `str`" in out) == (1, True)


@pytest.mark.long
@pytest.mark.parametrize(("dtype", "kind"), [("bf16", "BF16"), ("float32", "F32")])
def test_precision(dtype: str, kind: str, tmp_path: Path) -> None:
    output = prepare(tmp_path, steps=2, save={"dtype": dtype}, sample={"prompts": []})
    assert train(tmp_path)[0] == 0
    data = (output / "disc.safetensors").read_bytes()
    (length,) = struct.unpack("<Q", data[:8])
    header = json.loads(data[8 : 8 + length])
    assert {entry["dtype"] for name, entry in header.items() if name != "__metadata__"} == {kind}
    assert train(tmp_path)[0] == 0  # it can read its own file


def test_it_resumes_from_the_newest_checkpoint_and_does_nothing_when_finished(tmp_path: Path) -> None:
    output = prepare(tmp_path, sample={"prompts": []})
    assert train(tmp_path)[0] == 0
    whole = (output / "disc.safetensors").read_bytes()
    (output / "disc.safetensors").unlink()
    code, out = train(tmp_path)
    assert (code, "Found step 20 in metadata" in out) == (0, True)
    assert len(losses(out)) < 20
    assert len((output / "disc.safetensors").read_bytes()) == len(whole)
    code, out = train(tmp_path)
    assert (code, losses(out)) == (0, [])
    assert "RESUMING FROM output/disc/disc.safetensors" in out


def test_truncated_checkpoints_end_the_run_with_an_error(tmp_path: Path) -> None:
    output = prepare(tmp_path, sample={"prompts": []})
    (tmp_path / "dataset/1.txt").unlink()  # an empty caption, without a message
    assert train(tmp_path)[0] == 0
    for path in output.glob("*.safetensors"):
        path.write_bytes(path.read_bytes()[:-100])
    code, out = train(tmp_path)
    assert (code, "Error running job" in out) == (1, True)


@pytest.mark.long
def test_a_cancelled_run_exits_with_zero(tmp_path: Path) -> None:
    output = prepare(tmp_path, steps=1000, sample={"prompts": []})
    process = start(tmp_path, STEP_SECONDS="0.02")
    deadline = time.monotonic() + 30
    while not (output / "optimizer.pt").exists():
        assert time.monotonic() < deadline
        time.sleep(0.01)
    while process.poll() is None and time.monotonic() < deadline:
        # Repeated, because Python can lose an interrupt that arrives during a finalizer.
        process.send_signal(signal.SIGINT)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(timeout=5)
    out, _ = process.communicate(timeout=30)
    assert (process.returncode, "Job stopped" in out) == (0, True)
    assert not (output / "disc.safetensors").exists()


def test_old_checkpoints_are_deleted(tmp_path: Path) -> None:
    output = prepare(tmp_path, save_every=5, save={"max_step_saves_to_keep": 2}, sample={"prompts": []})
    assert train(tmp_path)[0] == 0
    kept = ["disc_000000015.safetensors", "disc_000000020.safetensors"]
    assert sorted(path.name for path in output.glob("disc_*")) == kept


def test_the_configuration_is_read_by_ai_toolkits_rules(tmp_path: Path) -> None:
    prepare(tmp_path, steps=2, sample={"prompts": []})
    text = (tmp_path / "train.yml").read_text()
    text = text.replace("lr: 0.0001", "lr: 1e-4").replace("folder: output", "folder: '${OUT}/[name]'")
    (tmp_path / "train.yml").write_text(text)
    code, out = train(tmp_path)
    assert (code, "Environment variable OUT not set" in out) == (1, True)
    code, out = train(tmp_path, OUT="elsewhere")
    assert code == 0, out
    assert (tmp_path / "elsewhere/disc/disc/disc.safetensors").exists()
    assert "lr: 1.0e-04" in out


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("sd_trainer", "nothing", "Unknown process type"),
        ("name: disc", "title: disc", "must have a config.name key"),
        ("folder_path: dataset", "folder_path: nowhere", "no images found"),
    ],
)
def test_invalid_configurations_end_with_an_error(old: str, new: str, says: str, tmp_path: Path) -> None:
    prepare(tmp_path)
    path = tmp_path / "train.yml"
    path.write_text(path.read_text().replace(old, new))
    code, out = train(tmp_path)
    assert (code, says in out) == (1, True)
