"""What `flux export` makes, loaded by diffusers into a tiny FLUX.1; its card, parsed by huggingface_hub.

These libraries are not in the environment of the other tests: the dependency group `export` installs them (.github/CONTRIBUTING.md).
"""

import hashlib
import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from flux_training.commands.export.command import export
from tests.commands.runs_folder import make_run, write_json
from tests.support.flux import make_checkout
from tests.training.job_folders import TRAIN_YML

HERE = Path(__file__).parent
pytestmark = [
    pytest.mark.long,
    pytest.mark.timeout(900),
    pytest.mark.skipif(
        importlib.util.find_spec("diffusers") is None, reason="the dependency group `export` is not installed"
    ),
]
# Writes a LoRA for the attention of the tiny model's first block, with the names that ai-toolkit gives to tensors.
WRITE_LORA = """\
import sys, torch
from safetensors.torch import save_file
block = "transformer.transformer_blocks.0.attn"
save_file(
    {
        f"{block}.{part}.lora_{side}.weight": torch.randn(*shape)
        for part in ("to_q", "to_k", "to_v")
        for side, shape in (("A", (4, 64)), ("B", (64, 4)))
    },
    sys.argv[1],
)
"""


def run_python(*words: str) -> str:
    environment = {**os.environ, "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(
        [sys.executable, *words], capture_output=True, text=True, check=False, env=environment
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


def test_an_export_is_loaded_by_diffusers_and_its_card_by_huggingface_hub(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = tmp_path / "flux"
    run_python(str(HERE / "tiny_flux.py"), str(model))
    checkout = make_checkout(tmp_path / "checkout")
    monkeypatch.chdir(checkout)
    run = make_run(checkout / "outputs/dev", "job")
    weights = run / "job.safetensors"
    run_python("-c", WRITE_LORA, str(weights))
    digest = hashlib.sha256(weights.read_bytes()).hexdigest()
    write_json(run / "done.json", {"sha256": digest, "size": weights.stat().st_size, "step": 20})
    (run / "train.yml").write_text(TRAIN_YML.format(name="job", steps=20, save_every=10))
    exported = tmp_path / "export"
    export.main(["job", "--to", str(exported)], standalone_mode=False)

    printed = run_python(str(HERE / "load_export.py"), str(model), str(exported), "job.safetensors")
    found = json.loads(printed.splitlines()[-1])
    assert found["adapters"]
    assert found["changed"] > 0
    card = found["card"]
    assert (card["base_model"], card["instance_prompt"]) == ("black-forest-labs/FLUX.1-dev", "tr1gger")
    assert card["license_name"] == "flux-1-dev-non-commercial-license"
    assert [sample["text"] for sample in card["widget"]] == ["a photo of tr1gger", "tr1gger in the rain"]
