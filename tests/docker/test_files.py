"""The Dockerfiles: stages, pins, secrets and users, without Docker; a build where Docker is available."""

import json
import os
import re
import runpy
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml
from dockerfile_parse import DockerfileParser

from flux_training.training.models.table import MODELS

ROOT = Path(__file__).resolve().parents[2]
DOCKER = ROOT / "docker"
DOCKERFILES = sorted(DOCKER.glob("Dockerfile*"))
# Stages and tags of ours, which the build itself makes.
OWN = {"build", "download", "flux-training-base:local", "flux-training-model:local"}
# The one base from elsewhere, a tag that docker/README.md lists as not pinned.
UNPINNED = "nvidia/cuda:12.8.1-runtime-ubuntu24.04"


def structure(path: Path) -> list[dict[str, Any]]:
    """The instructions of a Dockerfile: {instruction, value, …}, with continued lines joined."""
    parser = DockerfileParser(fileobj=path.open("rb"))
    return [line for line in parser.structure if line["instruction"] != "COMMENT"]


def values(path: Path, instruction: str) -> list[str]:
    return [line["value"] for line in structure(path) if line["instruction"] == instruction]


def arguments(path: Path) -> dict[str, str | None]:
    """ARG → its default, or None."""
    pairs = (value.partition("=") for value in values(path, "ARG"))
    return {name: (default if equals else None) for name, equals, default in pairs}


@pytest.mark.parametrize("path", DOCKERFILES, ids=lambda path: path.name)
def test_every_base_is_ours_or_listed_as_unpinned(path: Path) -> None:
    defaults = arguments(path)
    for value in values(path, "FROM"):
        image = re.sub(r"\$\{(\w+)\}", lambda found: defaults[found[1]] or "", value.partition(" AS ")[0])
        assert image in OWN or re.search(r"@sha256:[0-9a-f]{64}$", image) or image == UNPINNED
    if UNPINNED in path.read_text(encoding="utf-8"):
        assert f"| `{UNPINNED}` | **not pinned**" in (DOCKER / "README.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("path", DOCKERFILES, ids=lambda path: path.name)
def test_what_comes_from_the_network_is_pinned(path: Path) -> None:
    for value in values(path, "ADD"):
        assert re.match(r"--checksum=sha256:\$\{\w+_SHA256\} ", value), value
    for value in values(path, "RUN"):
        assert not re.search(r"curl|wget", value)
        for url in re.findall(r"https://\S+", value):
            assert "COMMIT}" in value, url
        for install in re.findall(r"pip install [^&]*", value):
            assert "--require-hashes" in install or "_COMMIT}" in install
    for name, default in arguments(path).items():
        if name.endswith("_COMMIT"):
            assert re.fullmatch(r"[0-9a-f]{40}", default or ""), name
        if name.endswith("_SHA256"):
            assert default is None, f"{name}: a digest that nobody has computed here"


def test_the_lock_has_a_digest_for_every_package() -> None:
    text = (DOCKER / "requirements.lock").read_text(encoding="utf-8")
    entries = re.split(r"\n(?=[A-Za-z0-9])", text.partition("\n")[2])
    assert len(entries) > 100
    assert [
        entry[:40] for entry in entries if not re.match(r"[\w.-]+==\S+ \\\n +--hash=sha256:", entry)
    ] == []
    assert "torch==2.9.1 " in text
    assert "://" not in text


@pytest.mark.parametrize("path", DOCKERFILES, ids=lambda path: path.name)
def test_no_image_ends_as_root(path: Path) -> None:
    """The start of a stage that is based on an image of ours, which ended as this user."""
    users = values(path, "USER")
    assert users[-1] == "1000"
    assert all(user.isdigit() for user in users)


@pytest.mark.parametrize("path", DOCKERFILES, ids=lambda path: path.name)
def test_no_secret_is_an_argument_or_a_variable(path: Path) -> None:
    for line in structure(path):
        if line["instruction"] in ("ARG", "ENV", "LABEL"):
            assert not re.search(r"TOKEN|SECRET|PASSWORD|API_KEY", line["value"], re.IGNORECASE), line
    text = path.read_text(encoding="utf-8")
    assert "HF_TOKEN" not in text


def test_the_token_is_a_build_secret_of_the_one_step_that_needs_it() -> None:
    mounts = {
        path.name: [value for value in values(path, "RUN") if "type=secret" in value] for path in DOCKERFILES
    }
    assert {name for name, found in mounts.items() if found} == {"Dockerfile.model"}
    (step,) = mounts["Dockerfile.model"]
    assert "--mount=type=secret,id=hf_token" in step
    assert "download-model.sh" in step
    assert 'secret = ["id=hf_token,env=HF_TOKEN"]' in (DOCKER / "docker-bake.hcl").read_text(encoding="utf-8")


def test_images_are_labelled_and_small_in_layers() -> None:
    for path in DOCKERFILES:
        assert "org.opencontainers.image.title=" in " ".join(values(path, "LABEL"))
        last = [
            line["instruction"]
            for line in structure(path)[_last_from(path) :]
            if line["instruction"] in ("RUN", "COPY", "ADD")
        ]
        weights = ["COPY"] * LAYERS if path.name == "Dockerfile.model" else []
        assert last == weights or len(last) <= 3, f"{path.name}: {last}"


SPLIT = runpy.run_path(str(DOCKER / "split-layers.py"))
LAYERS = SPLIT["LAYERS"]


def test_every_layer_of_weights_is_copied() -> None:
    copies = [value for value in values(DOCKER / "Dockerfile.model", "COPY") if "--from=download" in value]
    assert copies == [f"--from=download /layers/{number:02}/ /model/" for number in range(1, LAYERS + 1)]


def test_layers_stay_below_ten_gigabytes() -> None:
    # The transformer of FLUX.1-dev and its encoder in shards, as they are on Hugging Face, in GB.
    sizes = {"t1": 9.98, "t2": 9.95, "t3": 3.87, "e1": 4.99, "e2": 4.53, "vae": 0.17, "clip": 0.25}
    layers = SPLIT["split"]({name: int(size * 1e9) for name, size in sizes.items()})
    assert layers == [["t1"], ["t2"], ["e1", "e2", "clip", "vae"], ["t3"]]
    assert SPLIT["split"]({"a": int(12e9), "b": 1}) == [["a"], ["b"]]


def test_the_largest_model_of_the_table_fits() -> None:
    largest = max(model.download_gb() for model in MODELS.values())
    shards = {f"{number}": int(9.9e9) for number in range(int(largest / 9.9) + 1)}
    assert len(SPLIT["split"](shards)) <= LAYERS


def test_files_are_moved_into_the_folders_of_their_layers(tmp_path: Path) -> None:
    (tmp_path / "model/vae").mkdir(parents=True)
    (tmp_path / "model/model_index.json").write_text("{}")
    (tmp_path / "model/vae/w.safetensors").write_bytes(b"weights")
    SPLIT["main"](tmp_path / "model", tmp_path / "layers")
    assert (tmp_path / "layers/01/vae/w.safetensors").read_bytes() == b"weights"
    assert (tmp_path / "layers/01/model_index.json").read_text() == "{}"
    assert sorted(path.name for path in (tmp_path / "layers").iterdir())[-1] == f"{LAYERS:02}"


def _last_from(path: Path) -> int:
    return max(number for number, line in enumerate(structure(path)) if line["instruction"] == "FROM")


def test_the_main_processes_are_worker_and_tunnel() -> None:
    worker, dev = values(DOCKER / "Dockerfile", "CMD"), values(DOCKER / "Dockerfile.dev", "CMD")
    assert json.loads(worker[-1]) == ["/usr/local/bin/kelpie"]
    assert json.loads(dev[-1])[-1].startswith("exec code tunnel ")
    assert "FLUX_TUNNEL_NAME" in dev[-1]


def test_what_the_builder_gets_to_see_is_named() -> None:
    lines = (DOCKER / ".dockerignore").read_text(encoding="utf-8").splitlines()
    rules = [line for line in lines if line and not line.startswith("#")]
    needed = set()
    for path in DOCKERFILES:
        needed |= {value.split()[0] for value in values(path, "COPY") if "--from" not in value}
        needed |= set(re.findall(r"type=bind,source=([^,]+)", path.read_text(encoding="utf-8")))
    assert rules[0] == "*"
    assert {rule.removeprefix("!") for rule in rules[1:]} == needed


def test_the_commits_are_those_of_the_readme() -> None:
    commit = arguments(DOCKER / "Dockerfile.base")["AI_TOOLKIT_COMMIT"] or ""
    assert f"commit {commit[:8]} " in (DOCKER / "README.md").read_text(encoding="utf-8")


def test_every_target_of_the_bake_file_has_its_dockerfile() -> None:
    text = (DOCKER / "docker-bake.hcl").read_text(encoding="utf-8")
    assert set(re.findall(r'dockerfile = "(.+)"', text)) == {path.name for path in DOCKERFILES}
    named = {name for path in DOCKERFILES for name in arguments(path)}
    assert {
        name
        for block in re.findall(r"args = \{(.*?)\}", text, re.S)
        for name in re.findall(r"(\w+) +=", block)
    } <= named


@pytest.fixture
def tools(tmp_path: Path) -> Path:
    """A folder for programs that stand in for docker and hf."""
    folder = tmp_path / "bin"
    folder.mkdir()
    return folder


def program(folder: Path, name: str, body: str) -> None:
    path = folder / name
    path.write_text(f"#!/usr/bin/env bash\nset -euo pipefail\n{body}\n", encoding="utf-8")
    path.chmod(0o755)


def run(tools: Path, script: str, *words: str, **variables: str) -> subprocess.CompletedProcess[str]:
    environment = {"PATH": f"{tools}{os.pathsep}{os.environ['PATH']}", "TOOLS": str(tools), **variables}
    line = ["bash", str(DOCKER / script), *words]
    return subprocess.run(line, env=environment, capture_output=True, text=True, timeout=30, check=False)


BAKE = """
printf '%s\\n' "$@" > "$TOOLS/argv"
env > "$TOOLS/env"
while [[ $1 != --metadata-file ]]; do shift; done
echo '{"worker": {"containerimage.digest": "sha256:'$(printf 'a%.0s' {1..64})'"}}' > "$2"
echo building
"""


def test_a_build_names_what_it_pushed_and_no_secret(tools: Path) -> None:
    program(tools, "docker", BAKE)
    token = "canary-hf-5f70"
    done = run(tools, "build.sh", REPOSITORY="r.io/me/x", KELPIE_SHA256="b" * 64, HF_TOKEN=token)
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"worker=r.io/me/x@sha256:{'a' * 64}\n"
    assert token not in (tools / "argv").read_text() + done.stdout + done.stderr
    assert f"HF_TOKEN={token}" in (tools / "env").read_text()
    assert "--push" in (tools / "argv").read_text()


@pytest.mark.parametrize(
    ("variables", "words"),
    [
        ({}, "REPOSITORY: where to push to"),
        ({"REPOSITORY": "r/x"}, "KELPIE_SHA256: the SHA-256 of the worker binary"),
        ({"REPOSITORY": "r/x", "TARGETS": "dev"}, "VSCODE_SHA256: the SHA-256 of the VS Code CLI"),
        ({"REPOSITORY": "r/x", "TARGETS": "other"}, "other is neither worker nor dev"),
    ],
)
def test_a_build_says_what_it_lacks(tools: Path, variables: Mapping[str, str], words: str) -> None:
    program(tools, "docker", "echo it must not come so far; exit 9")
    done = run(tools, "build.sh", **variables)
    assert done.returncode not in (0, 9)
    assert words in done.stderr


HF = """
printf '%s\\n' "$@" > "$TOOLS/argv"
echo "${HF_TOKEN:-none}" > "$TOOLS/token"
while [[ $1 != --local-dir ]]; do shift; done
mkdir -p "$2/.cache/huggingface"
[[ -n ${WITHOUT_INDEX:-} ]] || echo '{}' > "$2/model_index.json"
"""


def test_a_model_is_downloaded_without_telling_the_token(tools: Path, tmp_path: Path) -> None:
    program(tools, "hf", HF)
    token = "canary-hf-d3a1"
    (tmp_path / "secret").write_text(token)
    model = tmp_path / "model"
    done = run(
        tools, "download-model.sh", "org/FLUX", "main", str(model), HF_TOKEN_FILE=str(tmp_path / "secret")
    )
    assert done.returncode == 0, done.stderr
    assert (tools / "token").read_text() == f"{token}\n"
    assert token not in (tools / "argv").read_text() + done.stdout + done.stderr
    assert [path.name for path in model.iterdir()] == ["model_index.json"]


def test_a_model_in_another_layout_is_refused(tools: Path, tmp_path: Path) -> None:
    program(tools, "hf", HF)
    done = run(tools, "download-model.sh", "org/x", "main", str(tmp_path / "model"), WITHOUT_INDEX="1")
    assert done.returncode == 1
    assert "org/x has no model_index.json" in done.stderr
    assert "no Hugging Face token" in done.stderr


def engine() -> str:
    """Why nothing can be built here; empty if it can."""
    if shutil.which("docker") is None:
        return "there is no docker"
    done = subprocess.run(["docker", "info"], capture_output=True, text=True, timeout=60, check=False)
    return "" if done.returncode == 0 else "docker has no engine here (`docker info` fails)"


def test_the_bake_file_is_read_by_docker() -> None:
    if shutil.which("docker") is None:
        pytest.skip("there is no docker")
    line = ["docker", "buildx", "bake", "--file", "docker-bake.hcl", "--print"]
    done = subprocess.run(line, cwd=DOCKER, capture_output=True, text=True, timeout=60, check=False)
    if "unknown" in done.stderr or "is not a docker command" in done.stderr:
        pytest.skip("docker has no buildx here")
    assert done.returncode == 0, done.stderr
    targets = yaml.safe_load(done.stdout)["target"]
    assert set(targets) == {"base", "model", "worker", "dev"}


def test_the_base_image_builds() -> None:
    """Takes hours and gigabytes: only on request, and only with Docker."""
    if why := engine():
        pytest.skip(why)
    if "FLUX_TEST_BUILD" not in os.environ:
        pytest.skip("a build takes gigabytes: it is done only with FLUX_TEST_BUILD set")
    line = ["docker", "buildx", "bake", "--file", "docker-bake.hcl", "base"]
    done = subprocess.run(line, cwd=DOCKER, capture_output=True, text=True, timeout=7200, check=False)
    assert done.returncode == 0, done.stderr[-4000:]
