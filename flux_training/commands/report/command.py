"""`flux report`: see the package."""

from __future__ import annotations

from pathlib import Path

import rich_click as click

from flux_training.commands.cli import OUTPUTS, UserPath, say, stack_option
from flux_training.commands.jobs.folders import HERE, jobs_folder
from flux_training.commands.report.runs import ReportedRun, newest_runs, runs_of
from flux_training.training.errors import BadInput
from flux_training.training.files import write_atomically

JOBS = "jobs"
PAGE = "report.html"
COMPARED = "compare.html"
OutputsPath = UserPath(file_okay=False, exists=True, path_type=Path)


@click.command()
@click.argument("jobs", nargs=-1, metavar="[JOB]...")
@click.option(
    "--compare", is_flag=True, help="One page with the runs side by side; of a single JOB all its runs."
)
@click.option(
    "--all-runs", is_flag=True, help="A page for every fetched run, not only for the newest of each job."
)
@click.option("--from", "folder", type=OutputsPath, help="Where the fetched runs lie. [default: outputs/]")
@click.option(
    "--jobs-folder",
    "images",
    type=OutputsPath,
    help="Where the images are looked for. [default: the stack's jobsFolder]",
)
@stack_option
def report(
    jobs: tuple[str, ...], compare: bool, all_runs: bool, folder: Path | None, images: Path | None, stack: str
) -> None:
    """Make a page of each JOB's newest run: samples, loss, dataset, what changed, cost, times.

    Each is one file that needs nothing else and asks nobody: outputs/<job>/<run>/report.html. It shows what was fetched.
    """
    outputs = folder or Path(OUTPUTS)
    if compare:
        say(str(write_comparison(_to_compare(outputs, jobs), outputs)))
        return
    for run in newest_runs(outputs, jobs):
        for one in runs_of(outputs, run.job) if all_runs else [run]:
            say(str(write_report(one, outputs, images or images_folder(stack))))


def images_folder(stack: str) -> Path:
    """The stack's job folders; `jobs/` where no stack tells: of runs that were fetched there is a page all the same."""
    try:
        return jobs_folder(HERE, stack)
    except BadInput:
        return Path(JOBS)


def write_report(run: ReportedRun, outputs: Path, images: Path) -> Path:
    """The run's page, written; its path."""
    from flux_training.commands.report.page import run_page

    return _write(run.folder / PAGE, run_page(run, outputs, images))


def write_comparison(runs: list[ReportedRun], outputs: Path) -> Path:
    """The page with these runs side by side, written; its path."""
    from flux_training.commands.report.page import compare_page

    return _write(outputs / COMPARED, compare_page(runs))


def _to_compare(outputs: Path, jobs: tuple[str, ...]) -> list[ReportedRun]:
    """Raises BadInput when there are not two."""
    runs = newest_runs(outputs, jobs)
    if len(runs) == 1:
        runs = runs_of(outputs, runs[0].job)
    if len(runs) < 2:
        raise BadInput(
            [
                f"only run {runs[0].run_id} of {runs[0].job} lies in {outputs}; two are needed: "
                "name another job, or `flux fetch --all-runs`"
            ]
        )
    return runs


def _write(path: Path, text: str) -> Path:
    write_atomically(path, text)
    return path
