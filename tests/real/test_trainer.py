"""The unmodified ai-toolkit under the launcher, on a CPU, with a tiny FLUX.1.

FLUX_TEST_AI_TOOLKIT names a checkout of ai-toolkit, FLUX_TEST_AI_TOOLKIT_PYTHON a Python with what it needs
(docs/trainer.md, "Tried with the real trainer"). Without them these tests are skipped. A start takes about a minute.
"""

import json
import os
import random
import shutil
import signal
import subprocess
import time
from enum import StrEnum
from pathlib import Path
from typing import Any

import pytest
import yaml

from flux_training.commands.export.command import export
from flux_training.node.launcher.errors import ExitCode
from flux_training.node.launcher.weights import weights_step
from flux_training.training.models.table import MODELS
from flux_training.training.train_yml.edit import new_train_yml
from flux_training.training.train_yml.templates import control_folders
from flux_training.training.train_yml.trainer_config import parse_train_yml
from flux_training.training.train_yml.trainer_version import NEWEST, PINNED, TrainerCommit
from tests.commands.runs_folder import make_run
from tests.node.runs import LaunchResult, Node, train_config
from tests.node.test_dataset import lay_out
from tests.real.compare_keys import differences
from tests.support.flux import make_checkout
from tests.training.job_folders import TRAIN_YML, add_folders, make_job
from tests.training.lint.mutations import for_cpu, mutations
from tests.training.lint.trainer_cases import (
    Agreement,
    TrainerCase,
    agreement,
    base_document,
    changed,
    lint_errors,
)

CHECKOUT = Path(os.environ.get("FLUX_TEST_AI_TOOLKIT", ""))
PYTHON = os.environ.get("FLUX_TEST_AI_TOOLKIT_PYTHON", "")
KILLS = int(os.environ.get("FLUX_TEST_KILLS", "2"))
STEPS, SAVE_EVERY = 40, 8
# Which random changes of train.yml are tried, and how many of them are run and not only read.
SEED, CHANGES = int(os.environ.get("FLUX_TEST_SEED", "43")), 200
RUNS = int(os.environ.get("FLUX_TEST_RUNS", "20"))
pytestmark = [
    pytest.mark.long,
    pytest.mark.timeout(900),
    pytest.mark.skipif(not PYTHON, reason="FLUX_TEST_AI_TOOLKIT and FLUX_TEST_AI_TOOLKIT_PYTHON are not set"),
]
# A kernel of omnigen2 asks for a CUDA device when it is imported; without one, memory cannot be collected either.
RUN = """\
import os, runpy, sys, types
os.environ |= {{"HF_HUB_OFFLINE": "1", "TORCHINDUCTOR_CACHE_DIR": {home!r} + "/inductor"}}
import torch
torch.cuda.current_device = lambda: 0
torch.cuda.get_device_properties = lambda *_: types.SimpleNamespace(warp_size=32)
torch.cuda.ipc_collect = lambda: None
torch.set_num_threads(1)
{more}
sys.path.insert(0, {checkout!r})
sys.argv[0] = {checkout!r} + "/run.py"
runpy.run_path(sys.argv[0], run_name="__main__")
"""
# Latents of 64 x 64 pixels have 16 tokens.
LARGE_IMAGES_DO_NOT_FIT = """\
from diffusers import FluxTransformer2DModel
forward = FluxTransformer2DModel.forward
def small_only(self, hidden_states, **options):
    if hidden_states.shape[1] > 20 and torch.is_grad_enabled():
        raise RuntimeError("CUDA out of memory")
    return forward(self, hidden_states=hidden_states, **options)
FluxTransformer2DModel.forward = small_only
"""
# One line for each step, in their order.
NOTE_LOSSES = """\
import tqdm
show = tqdm.tqdm.set_postfix_str
def noted(self, text="", refresh=True):
    with open("losses.txt", "a") as file:
        print(text, file=file)
    show(self, text, refresh)
tqdm.tqdm.set_postfix_str = noted
"""


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model") / "flux"
    program = Path(__file__).with_name("tiny_flux.py")
    run_python([str(program), str(folder)], folder.parent)
    return folder


def run_python(words: list[str], home: Path) -> str:
    """A program in the trainer's environment; its output."""
    environment = {**os.environ, "TORCHINDUCTOR_CACHE_DIR": str(home / "inductor")}
    done = subprocess.run([PYTHON, *words], check=True, capture_output=True, text=True, env=environment)
    return done.stdout


def real_node(home: Path, model: Path, more: str = "", **changes: Any) -> Node:
    """A node with the real trainer. `changes` are sections of train.yml, `more` is run before the trainer."""
    home.mkdir(parents=True, exist_ok=True)
    dataset = {"resolution": [64], "num_workers": 0, "prefetch_factor": None, **changes.pop("dataset", {})}
    node = Node(home, steps=STEPS, save_every=SAVE_EVERY, images=3)
    node.python, node.max_seconds = PYTHON, 600
    config = train_config("job", STEPS, SAVE_EVERY, **changes)
    (process,) = config["config"]["process"]
    process["datasets"][0] |= dataset
    process["train"] |= {"optimizer": "adamw", "noise_scheduler": "flowmatch", "dtype": "fp32"}
    process["train"] |= {"disable_sampling": True, **changes.get("train", {})}
    process["model"] |= {"name_or_path": str(model), "quantize": False}
    (node.run_files.config / "train.yml").write_text(yaml.safe_dump(config))
    node.reconfigure()
    node.set_trainer(program=RUN.format(checkout=str(CHECKOUT), home=str(home), more=more))
    shutil.copy(CHECKOUT / "version.py", home)
    return node


def final_step(node: Node) -> int:
    return weights_step(node.home / "model/job.safetensors")


class Kill(StrEnum):
    """How a start is interrupted."""

    STOPPED = "the launcher gets SIGTERM"
    KILLED = "launcher and trainer get SIGKILL"
    TRAINER_KILLED = "only the trainer gets SIGKILL"


def kill_at(node: Node, step: int, kill: Kill) -> LaunchResult:
    """One start that is interrupted when it reports this step; what it wrote is uploaded."""
    launcher = node.start()
    deadline = time.monotonic() + 300
    while time.monotonic() < deadline and launcher.poll() is None and _step(node) < step:
        time.sleep(0.05)
    if kill is Kill.STOPPED:
        launcher.send_signal(signal.SIGTERM)
    else:
        trainer = int(Path(f"/proc/{launcher.pid}/task/{launcher.pid}/children").read_text().split()[0])
        if kill is Kill.KILLED:
            launcher.kill()
        os.killpg(trainer, signal.SIGKILL)
    return node.result(launcher)


def _step(node: Node) -> int:
    try:
        return int(json.loads((node.upload / "progress.json").read_text())["step"])
    except (OSError, ValueError, KeyError):
        return 0


@pytest.mark.parametrize("seed", range(KILLS // 2))
def test_a_run_killed_twice_ends_with_sound_weights_at_its_last_step(
    seed: int, model: Path, tmp_path: Path
) -> None:
    node, dice = real_node(tmp_path, model), random.Random(seed)
    for step in sorted(dice.sample(range(1, STEPS), 2)):
        kill_at(node, step, dice.choice(list(Kill)))
        node.bring()
    ended = node.run()
    assert (ended.code, ended.published, ended.progress["restarts"]) == (0, True, 2), ended.out[-2000:]
    assert final_step(node) == STEPS
    assert ended.progress["trainer"]


def test_a_run_goes_on_from_the_checkpoint_before_one_that_was_cut(model: Path, tmp_path: Path) -> None:
    """On another node, which has only what is in the bucket."""
    node = real_node(tmp_path, model)
    kill_at(node, 3 * SAVE_EVERY + 2, Kill.KILLED)
    *older, newest = sorted(node.stored.glob("job_*.safetensors"))
    os.truncate(newest, newest.stat().st_size // 2)
    shutil.rmtree(node.output)
    node.bring()
    ended = node.run()
    assert (ended.code, ended.published) == (0, True), ended.out[-2000:]
    assert ended.progress["begun"] == [weights_step(older[-1]), 1]
    assert final_step(node) == STEPS


def test_the_curve_has_the_loss_of_each_step(model: Path, tmp_path: Path) -> None:
    """In each version of ai-toolkit: 0.12.26 changed what its bar counts."""
    node = real_node(tmp_path, model, NOTE_LOSSES)
    ended = node.run()
    assert (ended.code, ended.progress["step"]) == (0, STEPS), ended.out[-2000:]
    losses = [float(line.split()[-1]) for line in (tmp_path / "losses.txt").read_text().splitlines()]
    rows = (node.upload / "loss.csv").read_text().splitlines()[1:]
    assert rows == [f"{number},{loss:.6g}" for number, loss in enumerate(losses, 1)]


@pytest.mark.parametrize("network", [{"type": "lokr"}, {"type": "dora", "linear": 4, "linear_alpha": 4}])
def test_results_of_other_network_types_are_accepted(
    network: dict[str, Any], model: Path, tmp_path: Path
) -> None:
    node = real_node(tmp_path, model, network=network)
    ended = node.run()
    assert (ended.code, ended.published) == (0, True), ended.out[-2000:]
    assert final_step(node) == STEPS


def test_a_run_whose_large_images_are_all_skipped_ends_with_advice(model: Path, tmp_path: Path) -> None:
    node = real_node(tmp_path, model, LARGE_IMAGES_DO_NOT_FIT, dataset={"resolution": [64, 64, 64, 128]})
    ended = node.run()
    assert ended.code == ExitCode.TRAINING_FAULTY, ended.out[-2000:]
    assert ended.progress["skipped_batches"] > STEPS / 10
    assert "low_vram" in ended.progress["message"]


def test_a_run_without_a_loss_ends_with_advice(model: Path, tmp_path: Path) -> None:
    ended = real_node(tmp_path, model, train={"lr": 1e30}).run()
    assert ended.code == ExitCode.TRAINING_FAULTY, ended.out[-2000:]
    assert "lower train.lr" in ended.progress["message"]


@pytest.mark.parametrize("commit", [NEWEST, PINNED], ids=lambda commit: commit.version)
def test_the_table_has_the_keys_of_the_known_commits(commit: TrainerCommit) -> None:
    assert differences(CHECKOUT, commit.commit) == []


@pytest.mark.parametrize(
    "path",
    sorted(CHECKOUT.glob("config/examples/train_lora_flux*.yaml")) if PYTHON else [],
    ids=lambda path: path.stem,
)
def test_its_examples_for_flux_lint_without_errors(path: Path) -> None:
    """With the changes of SaladCloud's recipe: name, folders and, where the image has them, the weights."""
    text = path.read_text(encoding="utf-8").replace("/path/to/control/folder", "dataset")
    text = text.replace("person1.jpg", "00001.jpg")
    document = parse_train_yml(text.encode())
    document["config"]["name"] = "chelsea-cat"
    (process,) = document["config"]["process"]
    process["datasets"][0]["folder_path"] = "./dataset"
    if process["model"].get("arch") != "flux_kontext":
        process["model"]["name_or_path"] = "/model"
    assert lint_errors(document, variables=["HF_TOKEN"]) == []


def try_configs(cases: list[dict[str, Any]], folder: Path) -> dict[str, dict[str, str]]:
    """The verdict and error of each case, by its name."""
    (folder / "cases.json").write_text(json.dumps(cases))
    program = Path(__file__).with_name("try_configs.py")
    run_python([str(program), str(CHECKOUT), str(folder / "cases.json"), str(folder / "out.jsonl")], folder)
    found = map(json.loads, (folder / "out.jsonl").read_text().splitlines())
    return {verdict["name"]: verdict for verdict in found}


def test_lint_agrees_with_it_about_random_changes(model: Path, tmp_path: Path) -> None:
    """All are read, some are run. Lint may refuse what is only read, but not accept what the reader refuses.

    Of those that are run or refused, at most one in twenty may be judged differently, each for a known reason.
    """
    base, changes = base_document(), mutations(SEED, CHANGES)
    running = random.Random(SEED).sample(range(CHANGES), RUNS)
    configs = [
        {"name": str(number), "config": for_cpu(base, change, str(model)), "run": number in running}
        for number, change in enumerate(changes)
    ]
    found = try_configs(configs, tmp_path)
    wrong, judged = {}, [verdict for verdict in found.values() if verdict["verdict"] != "read"]
    for number, change in enumerate(changes):
        verdict, error = found[str(number)]["verdict"], found[str(number)]["error"]
        errors = lint_errors(changed(base, change))
        how = agreement(TrainerCase("", change, verdict, error), errors)
        if how != Agreement.AGREED and verdict != "read":
            wrong[json.dumps(change)] = f"{verdict} ({how}): {error or errors}"
    print(
        f"seed {SEED}: {len(wrong)} of {len(judged)} changes are judged differently", *wrong.items(), sep="\n"
    )
    assert len(judged) >= RUNS
    assert len(wrong) <= 0.05 * len(judged)
    assert not [change for change, text in wrong.items() if Agreement.UNEXPLAINED in text]


def test_its_dataset_class_reads_the_folders_of_a_job_as_lint_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job, node = make_job(tmp_path / "jobs", "edit"), tmp_path / "node"
    add_folders(job, "control", "control-depth")
    (node / "training-config").mkdir(parents=True)
    shutil.copy(job / "train.yml", node / "training-config")
    monkeypatch.chdir(node)
    lay_out(job, node)
    program = Path(__file__).with_name("read_dataset.py")
    main, second = json.loads(run_python([str(program), str(CHECKOUT)], tmp_path))
    assert (main["count"], main["is_reg"]) == (3, False)
    assert main["captions"]["00002.jpg"] == "tr1gger, picture 2"
    assert main["controls"]["00002.jpg"] == ["control/00002.png", "control-depth/00002.png"]
    assert main["masks"]["00002.jpg"] == "mask/00002.png"
    assert (second["count"], second["is_reg"]) == (6, True)
    assert second["captions"]["00002.png"] == "a gradient, picture 2"


def test_an_export_is_loaded_by_diffusers_and_its_card_by_huggingface_hub(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the real trainer made, verified by the launcher and exported."""
    node = real_node(tmp_path / "node", model)
    ended = node.run()
    assert ended.published, ended.out[-2000:]
    checkout = make_checkout(tmp_path / "checkout")
    monkeypatch.chdir(checkout)
    run = make_run(checkout / "outputs/dev", "job")
    for file in (node.home / "model").iterdir():
        shutil.copy(file, run)
    (run / "train.yml").write_text(TRAIN_YML.format(name="job", steps=STEPS, save_every=SAVE_EVERY))
    exported = tmp_path / "export"
    export.main(["job", "--to", str(exported)], standalone_mode=False)
    program = Path(__file__).with_name("load_export.py")
    line = [PYTHON, str(program), str(model), str(exported), "job.safetensors"]
    environment = {**os.environ, "TORCHINDUCTOR_CACHE_DIR": str(tmp_path / "inductor")}
    done = subprocess.run(line, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["adapters"]
    assert found["changed"] > 0
    card = found["card"]
    assert (card["base_model"], card["instance_prompt"]) == ("black-forest-labs/FLUX.1-dev", "tr1gger")
    assert card["license_name"] == "flux-1-dev-non-commercial-license"
    assert [sample["text"] for sample in card["widget"]] == ["a photo of tr1gger", "tr1gger in the rain"]


def test_its_configuration_classes_read_each_template_as_the_table_says(tmp_path: Path) -> None:
    for model in MODELS.values():
        controls = model.datasets.control_images[1]
        text = new_train_yml("cat", "ohwx", model=model, controls=controls, is_in_image=False)
        (tmp_path / f"{model.name}.yml").write_text(text, encoding="utf-8")
    command = [PYTHON, str(Path(__file__).with_name("read_templates.py")), str(CHECKOUT), str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    found = json.loads(done.stdout.splitlines()[-1])
    for name, model in MODELS.items():
        read, sampling = found[name], model.sampling
        most = model.datasets.control_images[1]
        assert read["arch"] in model.archs
        assert (read["weights"], read["adapter"] or "") == (model.weights, model.training_adapter)
        assert (read["noise"], read["sampler"]) == (sampling.noise, sampling.noise)
        assert (read["guidance"], read["sample_steps"]) == (sampling.guidance, sampling.steps)
        assert (read["folder"], read["frames"]) == ("dataset", 1)
        assert read["controls"] == (control_folders(most) or None)
        for sample in read["samples"]:
            images = [path for path in sample[1:] if path]
            first = ["dataset/00001.jpg"] if model.datasets.first_frame else []
            assert images == [*first, *(f"{folder}/00001.jpg" for folder in control_folders(most))]
