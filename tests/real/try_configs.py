"""What the real trainer does with many configs: `python try_configs.py CHECKOUT CASES.json OUT.jsonl [SECONDS]`.

CASES.json is a list of `{"name", "config", "run"}`. For each, OUT.jsonl gets a line `{"name", "verdict", "error"}` with a verdict
of `TrainerCase`, or `died`. The trainer is loaded once, and each case is a fork of it.

It runs in the trainer's environment, not in that of the tests.
"""

# mypy: ignore-errors  - the libraries are not in the environment that is checked

import contextlib
import gc
import importlib
import json
import os
import select
import shutil
import signal
import sys
import tempfile
import time
import traceback
import types
from pathlib import Path

os.environ |= {"CUDA_VISIBLE_DEVICES": "", "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
CHECKOUT = sys.argv[1]
DEFAULT_SECONDS = 90.0
MAX_ERROR_LENGTH = 300


def prepare() -> None:
    """Load what every case needs. A kernel of omnigen2 asks for a CUDA device when it is imported."""
    sys.path.insert(0, CHECKOUT)
    os.chdir(CHECKOUT)
    import torch

    torch.cuda.current_device = lambda: 0
    torch.cuda.get_device_properties = lambda *_: types.SimpleNamespace(warp_size=32)
    torch.cuda.ipc_collect = lambda: None
    torch.set_num_threads(1)
    import toolkit.extension
    import toolkit.util.get_model
    from extensions_built_in.sd_trainer import DiffusionTrainer, SDTrainer  # noqa: F401 - loaded for the forks

    # Both search the extension folders anew at each call.
    models = list(toolkit.util.get_model.get_all_models())
    toolkit.util.get_model.get_all_models = lambda: models
    processes = toolkit.extension.get_all_extensions_process_dict()
    import jobs.ExtensionJob

    jobs.ExtensionJob.get_all_extensions_process_dict = lambda: processes


def write_dataset(folder: Path) -> None:
    from PIL import Image

    folder.mkdir()
    for number in range(4):
        pixels = bytes((number * 40 + position) % 256 for position in range(96 * 80 * 3))
        Image.frombytes("RGB", (96, 80), pixels).save(folder / f"{number:05}.jpg")
        (folder / f"{number:05}.txt").write_text(f"a photo of ch3lsea cat, number {number}")


def verdict_of(case: dict) -> dict[str, str]:
    """In the fork, in a folder of its own."""
    from toolkit.job import get_job

    write_dataset(Path("dataset"))
    Path("train.json").write_text(json.dumps(case["config"]))
    stage = "refused"
    try:
        job = get_job(str(Path("train.json").absolute()))
        if not case["run"]:
            return {"verdict": "read", "error": ""}
        stage = "failed"
        job.run()
    except BaseException as error:  # noqa: BLE001 - whatever ends the trainer is a verdict
        traceback.print_exc()
        return {"verdict": stage, "error": f"{type(error).__name__} {error}"[:MAX_ERROR_LENGTH]}
    return {"verdict": "ran", "error": ""}


def run_in_fork(case: dict, folder: str, writing: int) -> None:
    """Never returns."""
    os.setsid()
    os.chdir(folder)
    os.environ["TORCHINDUCTOR_CACHE_DIR"] = f"{folder}/inductor"
    log = os.open(os.environ.get("TRY_LOG", os.devnull), os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(log, 1)
    os.dup2(log, 2)
    found = verdict_of(case) | {"modules": sorted(sys.modules)}
    with os.fdopen(writing, "w") as pipe:
        json.dump(found, pipe)
    os._exit(0)


def try_case(case: dict, seconds: float) -> dict[str, object]:
    """The verdict, with the names of the modules that were loaded for it."""
    reading, writing = os.pipe()
    folder = tempfile.mkdtemp()
    sys.stdout.flush()
    child = os.fork()
    if child == 0:
        run_in_fork(case, folder, writing)
    os.close(writing)
    ended = bool(select.select([reading], [], [], seconds)[0])
    content = os.fdopen(reading).read() if ended else ""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(child, signal.SIGKILL)
    os.waitpid(child, 0)
    shutil.rmtree(folder)
    if content:
        return json.loads(content)
    return {"verdict": "died" if ended else "slow", "error": "", "modules": []}


def main(cases: Path, out: Path, seconds: float) -> None:
    out = out.absolute()
    todo = json.loads(cases.read_text())
    prepare()
    loaded = set(sys.modules)
    for case in todo:
        gc.freeze()  # The trainer collects garbage at each step; the forks need not look at what is loaded here.
        started = time.monotonic()
        found = try_case(case, seconds)
        print(
            case["name"],
            found["verdict"],
            round(time.monotonic() - started, 1),
            found["error"][:100],
            flush=True,
        )
        # What one run loads late is then loaded for all.
        for name in sorted(set(found.pop("modules")) - loaded):
            loaded.add(name)
            with contextlib.suppress(Exception):
                importlib.import_module(name)
        with out.open("a") as file:
            file.write(json.dumps({"name": case["name"], **found}) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[2]), Path(sys.argv[3]), float(sys.argv[4]) if len(sys.argv) > 4 else DEFAULT_SECONDS)
