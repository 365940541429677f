"""`flux open`: shows the page of a run in the browser."""

import os
import shutil
import sys
import webbrowser
from collections.abc import Mapping

import rich_click as click

from flux_training.commands.cli import outputs_folder, say, say_wrapped, stack_option
from flux_training.commands.completion import complete_job
from flux_training.commands.report.command import images_folder, write_report
from flux_training.commands.report.runs import PAGE, select_run

GRAPHICAL_BROWSERS = (
    "firefox", "chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "brave-browser",
    "microsoft-edge", "opera", "konqueror", "epiphany",
)  # fmt: skip


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
        say_wrapped(why_no_browser_opens(os.environ, sys.platform))


def why_no_browser_opens(environ: Mapping[str, str], platform: str) -> str:
    has_browser = any(map(shutil.which, GRAPHICAL_BROWSERS))
    has_display = environ.get("DISPLAY") or environ.get("WAYLAND_DISPLAY")
    if platform.startswith("linux") and not has_display:
        reason = "this terminal has no display, as over SSH or in a container"
        where = "a browser on a desktop, here or on another machine after copying it"
        return f"No browser was opened: {reason}. Open the file in {where}."
    if has_browser or environ.get("BROWSER"):
        return "The browser could not be started. Open the file in a browser yourself."
    return "No browser was found on this machine. Copy the file to one that has a browser, and open it there."
