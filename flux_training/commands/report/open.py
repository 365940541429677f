"""`flux open`: shows the page of a run in the browser."""

import webbrowser

import rich_click as click

from flux_training.commands.cli import outputs_folder, say, stack_option
from flux_training.commands.completion import complete_job
from flux_training.commands.report.command import images_folder, write_report
from flux_training.commands.report.runs import PAGE, select_run


@click.command(name="open")
@click.argument("job", shell_complete=complete_job)
@click.option(
    "--run", "run_id", metavar="ID", help="This run instead of the newest; the first characters are enough."
)
@stack_option
def open_command(job: str, run_id: str | None, stack: str) -> None:
    """Open the page of JOB's newest fetched run in the browser; the page is made first if there is none."""
    run = select_run(outputs_folder(stack), job, run_id, stack)
    page = run.folder / PAGE
    if not page.is_file():
        write_report(run, outputs_folder(stack), images_folder(stack), stack)
    say(str(page))
    if not webbrowser.open(page.resolve().as_uri()):
        say("There is no browser on this machine: copy the file to one that has.")
