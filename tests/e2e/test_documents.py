"""What README.md, .github/CONTRIBUTING.md and docs/ tell to type, typed: every block of commands that says no need, in the order of reading.

All share one checkout and one local cloud. It is the repository's own, but for what would only cost time: the two example jobs are small
ones under their names, and train.yml of the job that `flux new` makes is shortened. `caption` asks a server of the test's in OpenAI's place.
"""

import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.checkout import ROOT, Checkout, new_checkout
from tests.support.documents import DOCUMENTS, Block, command_blocks
from tests.support.openai_server import captioner
from tests.support.photos import SIZE, photo
from tests.training.job_folders import make_job

MORE_PARTS = ("flux", "docs", "schemas", "tests", "docker")
# What a train.yml says by default → what is enough here.
SHORTER = {"steps": "20", "save_every": "10", "sample_every": "10", "sample_steps": "2"}


@pytest.fixture(scope="module")
def reader(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Checkout]:
    """A checkout, and a home folder that contains photos of a dog."""
    place = tmp_path_factory.mktemp("reader")
    photos = place / "home/photos/dog"
    photos.mkdir(parents=True)
    for number in range(1, 4):
        # The captioner tells images apart by their width.
        photo(number, (SIZE[0] + number, SIZE[1])).save(photos / f"IMG_{number}.jpg")
    with captioner() as server, new_checkout(place / "checkout") as checkout:
        shutil.rmtree(checkout.root / "jobs")
        for seed, name in enumerate(("chelsea-cat", "coffee-cup")):
            make_job(checkout.root / "jobs", name, seed=seed)
        shutil.copy2(ROOT / "Pulumi.dev.yaml", checkout.root)
        for part in MORE_PARTS:
            if (ROOT / part).is_dir():
                ignored = shutil.ignore_patterns("__pycache__")
                shutil.copytree(ROOT / part, checkout.root / part, ignore=ignored)
            else:
                shutil.copy2(ROOT / part, checkout.root / part)
        environment = {"HOME": str(place / "home"), "OPENAI_BASE_URL": server.url}
        yield Checkout(checkout.root, {**checkout.environment, **environment})


def run(reader: Checkout, block: Block) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["bash", "-euo", "pipefail", "-c", block.text],
        cwd=reader.root,
        env=dict(reader.environment),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
        timeout=240,
    )


def shorten(jobs: Path) -> None:
    """Shorten train.yml, which would train for an hour."""
    for path in jobs.glob("*/train.yml"):
        text = path.read_text(encoding="utf-8")
        for key, value in SHORTER.items():
            text = re.sub(rf"\b{key}: \d+", f"{key}: {value}", text)
        path.write_text(text, encoding="utf-8")


@pytest.mark.long
@pytest.mark.timeout(900)  # as long as its blocks take, each of which has a limit of its own
def test_the_commands_in_the_documents_work(reader: Checkout) -> None:
    """Blocks run in reading order: a block may depend on those before it."""
    to_run = [block for block in command_blocks() if not block.needs]
    assert {block.document.name for block in to_run} >= {"README.md", "CONTRIBUTING.md", "localcloud.md"}
    assert [block.document for block in to_run] == sorted(
        (block.document for block in to_run), key=DOCUMENTS.index
    )
    printed = {}
    for block in to_run:
        done = run(reader, block)
        assert done.returncode == 0, (
            f"{block.place}:\n{block.text}\nended with {done.returncode}:\n{done.stdout}"
        )
        assert "Traceback" not in done.stdout, f"{block.place}:\n{done.stdout}"
        printed[block.place] = done.stdout
        if "./flux new" in block.text:
            shorten(reader.root / "jobs")
    jobs = reader.outputs()["jobs"]
    assert {name: job["status"] for name, job in jobs.items()} == dict.fromkeys(
        ("chelsea-cat", "coffee-cup", "my-dog"), "completed"
    )
    for name in jobs:
        assert list((reader.root / "outputs/dev" / name).glob(f"*/{name}.safetensors"))
    exported = reader.root.parent / "home/loras/my-dog"
    assert {path.name for path in exported.iterdir()} >= {"my-dog.safetensors", "README.md", "images"}
    assert "All checks passed. Next: `make up`." in "".join(printed.values())
