"""The files of the declared runs, passed from the Pulumi program to the provider process of the same update.

The program has already read, checked and priced every job folder. It writes the result to
`.flux-cache/runs/<project>/<stack>/<job>/<run id>/`; as inputs of the resource, the files would make the state large. Each
update writes the folder anew, and removes a run's files once the run is queued.
"""

import json
import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flux_training.clients.stack.spending import Reservation
from flux_training.training.dataset.image_cache import CACHE_FOLDER
from flux_training.training.dataset.manifest import canonical_json
from flux_training.training.errors import FluxError
from flux_training.training.runs.run import run_id

FOLDER = Path(CACHE_FOLDER) / "runs"
CONFIG, MANIFEST, DETAILS = "train.yml", "manifest.json", "details.json"


@dataclass(frozen=True)
class PreparedRun:
    """`raw_config` is train.yml and `manifest` is manifest.json, byte for byte.

    `estimate` is the expected cost as run.json has it, and `reservation` what counts against the budget; None if not known.
    `weights_in_image`: the id of what the cluster's image holds in `/model`; empty if unknown.
    """

    job: str
    run_id: str
    raw_config: bytes
    manifest: bytes
    save_every: int
    estimate: dict[str, Any] | None
    reservation: Reservation | None = None
    weights_in_image: str = ""


def write_prepared(owner: str, runs: Iterable[PreparedRun], root: Path = Path()) -> None:
    """Replace the prepared runs of the stack `owner` (`<project>/<stack>`)."""
    shutil.rmtree(root / FOLDER / owner, ignore_errors=True)
    for run in runs:
        folder = root / FOLDER / owner / run.job / run.run_id
        folder.mkdir(parents=True)
        (folder / CONFIG).write_bytes(run.raw_config)
        (folder / MANIFEST).write_bytes(run.manifest)
        (folder / DETAILS).write_bytes(
            canonical_json(
                {
                    "save_every": run.save_every,
                    "estimate": run.estimate,
                    "reservation": run.reservation.to_details if run.reservation else None,
                    "weights_in_image": run.weights_in_image,
                }
            )
        )


def load_prepared(
    owner: str, job: str, run: str, attempt: int, parent: str | None, root: Path = Path()
) -> PreparedRun:
    """The prepared run, checked against its id. Raises FluxError if it is missing or damaged."""
    folder = root / FOLDER / owner / job / run
    try:
        raw_config, manifest = (folder / CONFIG).read_bytes(), (folder / MANIFEST).read_bytes()
        details = json.loads((folder / DETAILS).read_bytes())
        save_every, estimate = int(details["save_every"]), details["estimate"]
        reservation = Reservation.from_details(details["reservation"])
        weights = str(details["weights_in_image"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise _unusable(folder, f"cannot be read ({error})") from error
    if run_id(manifest, raw_config, attempt, parent) != run:
        raise _unusable(folder, f"do not belong to run {run}")
    return PreparedRun(job, run, raw_config, manifest, save_every, estimate, reservation, weights)


def remove_prepared(owner: str, job: str, run: str, root: Path = Path()) -> None:
    shutil.rmtree(root / FOLDER / owner / job / run, ignore_errors=True)


def _unusable(folder: Path, why: str) -> FluxError:
    return FluxError(
        f"the prepared files of the run in {folder} {why}",
        "each update writes these files before it queues a run",
        "run the same command again",
    )
