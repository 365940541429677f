"""`flux caption` with a real server of OpenAI's interface: `transformers serve`, and tiny vision models that are built here.

`FLUX_TEST_CAPTION_PYTHON` names a Python with torch and `transformers[serving]` (docs/decisions/0052-real-captioning-server.md).
"""

import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from localcloud.testing import wait_until

from flux_training.commands.jobs.caption import caption
from flux_training.training.dataset.captions import INSTRUCTION
from flux_training.training.errors import FluxError
from flux_training.training.train_yml.edit import new_train_yml
from tests.support.flux import make_checkout
from tests.support.openai_server import make_images

PYTHON = os.environ.get("FLUX_TEST_CAPTION_PYTHON", "")
MODEL_SCRIPT = Path(__file__).parent / "tiny_vision_model.py"
SERVE = "from transformers.cli.transformers import main; main()"
CAPTION = "A ginger cat looks up at the sky."
# The model says the same of all images, which is an error for six.
IMAGES = 5

pytestmark = [
    pytest.mark.long,
    pytest.mark.skipif(not PYTHON, reason="FLUX_TEST_CAPTION_PYTHON is not set"),
]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with two models: `trained` answers the default prompt with CAPTION, `random` writes noise."""
    folder = tmp_path_factory.mktemp("models")
    for name, lesson in (("trained", (INSTRUCTION, CAPTION)), ("random", ())):
        subprocess.run([PYTHON, str(MODEL_SCRIPT), str(folder / name), *lesson], check=True)
    return folder


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of `transformers serve`, without `/v1`. It loads the models that requests name, and downloads none."""
    folder = tmp_path_factory.mktemp("server")
    # It leaves the images that it gets in the folder for temporary files.
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "TMPDIR": str(folder)}
    options = ["--host", "127.0.0.1", "--port", "0", "--device", "cpu", "--default-seed", "0"]
    log = folder / "log"
    with log.open("w") as output:
        line = [PYTHON, "-c", SERVE, "serve", *options]
        process = subprocess.Popen(line, env=environment, stdout=output, stderr=subprocess.STDOUT)

    def address() -> str:
        assert process.poll() is None, log.read_text(encoding="utf-8")
        running = re.search(r"running on (http://[\d.:]+)", log.read_text(encoding="utf-8"))
        return running[1] if running else ""

    try:
        wait_until(address, 120)
        yield address()
    finally:
        process.terminate()
        process.wait()


@pytest.fixture
def dataset(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    root = make_checkout(tmp_path / "checkout")
    make_images(root / "jobs/squares/dataset", IMAGES)
    (root / "jobs/squares/train.yml").write_text(new_train_yml("squares", "ohwx"), encoding="utf-8")
    monkeypatch.chdir(root)
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    return root / "jobs/squares/dataset"


def run(url: str, model: Path | str) -> None:
    caption.main(["squares", "--base-url", url, "--model", str(model)], standalone_mode=False)


def captions(dataset: Path) -> set[str]:
    return {file.read_text(encoding="utf-8") for file in dataset.glob("*.txt")}


def test_the_captions_of_a_model_are_written(server: str, models: Path, dataset: Path) -> None:
    run(f"{server}/v1", models / "trained")
    assert len(list(dataset.glob("*.txt"))) == IMAGES
    assert captions(dataset) == {f"{CAPTION} [trigger]\n"}


def test_noise_is_refused_before_the_whole_folder_is_sent(server: str, models: Path, dataset: Path) -> None:
    with pytest.raises(
        FluxError, match="has not captioned any of the first 3 images: the answer is"
    ) as caught:
        run(f"{server}/v1", models / "random")
    assert "choose a model that reads images" in str(caught.value)
    assert captions(dataset) == set()


def test_a_model_that_the_server_cannot_load_ends_the_command(server: str, dataset: Path) -> None:
    with pytest.raises(
        FluxError, match=r"any of the first 3 images: the server failed .*500.*; its log says why"
    ):
        run(f"{server}/v1", "nobody/nothing")
    assert captions(dataset) == set()


def test_an_address_without_its_version_gets_a_suggestion(server: str, models: Path, dataset: Path) -> None:
    with pytest.raises(FluxError, match=f"try --base-url {server}/v1"):
        run(server, models / "trained")
    assert captions(dataset) == set()
