"""`flux report`: writes the pages."""

from pathlib import Path

import rich_click as click
from rich.table import Table
from rich.text import Text

from flux_training.commands.cli import UserPath, outputs_folder, say, say_wrapped, screen, stack_option
from flux_training.commands.completion import complete_job
from flux_training.commands.jobs.folders import HERE, jobs_folder
from flux_training.commands.report.runs import PAGE, ReportedRun, fetched_runs, newest_runs, run_label
from flux_training.training.errors import BadInput
from flux_training.training.files import write_atomically
from flux_training.training.runs.changes import MAX_NAMES
from flux_training.training.train_yml.diff import compared_settings, differing_images, settings_by_job
from flux_training.training.words import DEFAULT_STACK, flux_command, list_first, printable

DEFAULT_JOBS_FOLDER = "jobs"
COMPARISON = "compare.html"
OutputsPath = UserPath(file_okay=False, exists=True, path_type=Path)


@click.command()
@click.argument("jobs", nargs=-1, metavar="[JOB]...", shell_complete=complete_job)
@click.option(
    "--compare", is_flag=True, help="One page that compares the runs; with a single JOB, all its runs."
)
@click.option(
    "--all-runs", is_flag=True, help="A page for every fetched run, not only the newest of each job."
)
@click.option(
    "--from", "folder", type=OutputsPath, help="The folder with the fetched runs. [default: outputs/<stack>/]"
)
@click.option(
    "--jobs-folder",
    "images",
    type=OutputsPath,
    help="The folder with the images. [default: the stack's jobsFolder]",
)
@click.option(
    "--to",
    type=UserPath(dir_okay=False, path_type=Path),
    metavar="FILE",
    help="Where to write the page of --compare. [default: outputs/<stack>/compare.html]",
)
@stack_option
def report(
    jobs: tuple[str, ...],
    compare: bool,
    all_runs: bool,
    folder: Path | None,
    images: Path | None,
    to: Path | None,
    stack: str,
) -> None:
    """Make a page of each JOB's newest run: samples, loss, dataset, changes, cost, times.

    Each page is a single file, outputs/<stack>/<job>/<run id>/report.html, made from what was fetched. It loads nothing from the network.
    """
    outputs = folder or outputs_folder(stack)
    if to and not compare:
        raise click.UsageError(
            "--to FILE needs --compare, because it names the page of a comparison; a run's own page stays in the run's folder"
        )
    if compare and all_runs:
        raise click.UsageError("--compare of one job compares all its runs; it has no --all-runs")
    if compare:
        runs = _runs_to_compare(outputs, jobs, stack)
        page = to or outputs / COMPARISON
        is_replaced = page.exists()
        write_comparison(runs, page)
        screen.print(_comparison_table(runs))
        if note := _different_images(runs):
            say_wrapped(note)
        say_wrapped(
            f"Samples and losses side by side{', in place of the earlier comparison' if is_replaced else ''}:"
        )
        say(str(page))
        return
    for newest in newest_runs(outputs, jobs, stack):
        for run in fetched_runs(outputs, newest.job) if all_runs else [newest]:
            say(str(write_report(run, outputs, images or images_folder(stack), stack)))


def images_folder(stack: str) -> Path:
    """The stack's job folders; `jobs/` without a usable stack file, because a report needs no stack."""
    try:
        return jobs_folder(HERE, stack)
    except BadInput:
        return Path(DEFAULT_JOBS_FOLDER)


def write_report(run: ReportedRun, outputs: Path, images: Path, stack: str = DEFAULT_STACK) -> Path:
    """Write the run's page; its path."""
    from flux_training.commands.report.page import run_page

    path = run.folder / PAGE
    write_atomically(path, run_page(run, outputs, images, stack))
    return path


def write_comparison(runs: list[ReportedRun], path: Path) -> Path:
    """Write the page that compares the runs; its path. Raises OSError."""
    from flux_training.commands.report.page import compare_page

    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, compare_page(runs))
    return path


def _comparison_table(runs: list[ReportedRun]) -> Table:
    """Each run with its values of the settings in which the runs differ, and its last loss."""
    labels = [run_label(run, runs) for run in runs]
    changed = settings_by_job(labels, compared_settings([run.config for run in runs]))
    table = Table("Run", "Different settings", box=None, pad_edge=False, header_style="dim")
    table.add_column("Loss", justify="right", no_wrap=True)
    for label, run in zip(labels, runs, strict=True):
        loss = run.progress.loss
        table.add_row(Text(label), Text(changed.get(label) or "-"), "-" if loss is None else f"{loss:.4f}")
    return table


def _different_images(runs: list[ReportedRun]) -> str:
    """`Different images or captions: 00003.jpg, 00007.jpg`; empty if none differs."""
    names = list(differing_images([run.images for run in runs]))
    if not names:
        return ""
    shown = ", ".join(names[:MAX_NAMES]) + " …" * (len(names) > MAX_NAMES)
    return f"Different images or captions: {printable(shown)}"


def _runs_to_compare(outputs: Path, jobs: tuple[str, ...], stack: str) -> list[ReportedRun]:
    """Raises BadInput if there is only one."""
    runs = newest_runs(outputs, jobs, stack)
    if len(runs) == 1:
        runs = fetched_runs(outputs, runs[0].job)
    if len(runs) < 2:
        job = runs[0].job
        others = [run.job for run in newest_runs(outputs, (), stack) if run.job != job]
        another = f"name another job as well: {list_first(others)}" if others else "train another job"
        fetch = flux_command(f"fetch {job} --all-runs", stack)
        raise BadInput(
            [
                f"{outputs} has only run {runs[0].run_id} of {job}; a comparison needs two; {another}; "
                f"if {job} was trained before, {fetch} gets its earlier runs"
            ]
        )
    return runs
