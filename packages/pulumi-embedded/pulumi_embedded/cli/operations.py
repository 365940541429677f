"""The commands preview, up, refresh and destroy."""

import argparse
import io
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from pulumi_embedded.cli import stacks
from pulumi_embedded.deployment.run import Run
from pulumi_embedded.deployment.targets import RunOptions, Targets
from pulumi_embedded.display.lines import Display, report_as_json
from pulumi_embedded.errors import CANCELLED, CHANGES, FAILED, UsageError
from pulumi_embedded.session import Session


def run_preview(session: Session, options: argparse.Namespace) -> int:
    with _started(session, options, program=True, quiet=options.json) as (run, display):
        display.start_run("Previewing update", preview=True)
        succeeded = run.preview()
        if options.json:
            sys.stdout.write(report_as_json(display.report, run.shown_config(), display.masked) + "\n")
        else:
            display.finish_run()
        return _status(succeeded, display, options, "preview")


def run_up(session: Session, options: argparse.Namespace) -> int:
    return _operate(session, options, "update", Run.preview, Run.update, program=True)


def run_refresh(session: Session, options: argparse.Namespace) -> int:
    return _operate(
        session, options, "refresh", Run.preview_refresh, Run.refresh, program=options.run_program
    )


def run_destroy(session: Session, options: argparse.Namespace) -> int:
    status = _operate(session, options, "destroy", Run.preview_destroy, Run.destroy, program=False)
    if status == 0 and options.remove:
        if options.target:
            print("The stack was not removed, because only the targets were destroyed.")
        else:
            stacks.delete_stack(session, force=False, preserve_config=False)
            print("The resources in the stack have been deleted, and the configuration removed.")
    return status


_TITLES = {"update": "Updating", "refresh": "Refreshing", "destroy": "Destroying"}


def _operate(
    session: Session,
    options: argparse.Namespace,
    what: str,
    preview_run: Callable[[Run], bool],
    change: Callable[[Run], bool],
    *,
    program: bool,
) -> int:
    interactive = sys.stdin.isatty() and not getattr(options, "non_interactive", False)
    if not interactive and not options.yes and not options.skip_preview:
        raise UsageError(
            "--yes or --skip-preview must be passed in to proceed when running in non-interactive mode"
        )
    with _started(session, options, program=program) as (run, display):
        if not options.skip_preview:
            display.start_run(f"Previewing {what}", preview=True)
            succeeded = preview_run(run)
            display.finish_run()
            if not succeeded:
                return FAILED
            if program:
                run.start_next_program()
            if not options.yes and not _confirm(what):
                return CANCELLED
        display.start_run(_TITLES[what], preview=False)
        try:
            succeeded = change(run)
        finally:
            display.finish_run()
        return _status(succeeded, display, options, what)


@contextmanager
def _started(
    session: Session, options: argparse.Namespace, *, program: bool, quiet: bool = False
) -> Iterator[tuple[Run, Display]]:
    """The run of a command and its display, both closed at the end."""
    display = _display(session, options, quiet=quiet)
    run_options = RunOptions(
        refresh=getattr(options, "refresh", False),
        continue_on_error=getattr(options, "continue_on_error", False),
        parallel=max(options.parallel, 1),
        clear_pending_creates=getattr(options, "clear_pending_creates", False),
        run_program=getattr(options, "run_program", False),
        targets=Targets(tuple(options.target), getattr(options, "target_dependents", False)),
        message=options.message,
    )
    run = Run(session, display, run_options, program=program)
    display.without_outputs = options.suppress_outputs
    display.set_secrets(run.secret_texts())
    display.on_closed = run.stop_starting_steps
    try:
        yield run, display
    finally:
        display.stop()
        run.close()


def _display(session: Session, options: argparse.Namespace, *, quiet: bool = False) -> Display:
    choice = getattr(options, "color", "auto")
    terminal = sys.stdout.isatty() and os.environ.get("TERM", "dumb") != "dumb"
    color = choice in ("always", "raw") or (choice == "auto" and terminal)
    if terminal and not quiet and not options.diff and not getattr(options, "non_interactive", False):
        from pulumi_embedded.display.live import LiveDisplay  # rich is slow to import

        return LiveDisplay(session.stack.name, color=color)
    stream = io.StringIO() if quiet else sys.stdout
    return Display(session.stack.name, color=color, details=options.diff, stream=stream)


def _status(succeeded: bool, display: Display, options: argparse.Namespace, what: str) -> int:
    if display.closed:
        raise BrokenPipeError
    if not succeeded:
        return FAILED
    if not getattr(options, "expect_no_changes", False) or not display.report.change_count:
        return 0
    print(f"error: no changes were expected for {what} but changes were proposed", file=sys.stderr)
    return CHANGES


def _confirm(what: str) -> bool:
    try:
        answer = input(f"Do you want to perform this {what}? [yes/no] ").strip().lower()
    except EOFError:  # Ctrl-D
        answer = ""
    if answer in ("y", "yes"):
        return True
    print(f"error: confirmation declined, not proceeding with the {what}", file=sys.stderr)
    return False
