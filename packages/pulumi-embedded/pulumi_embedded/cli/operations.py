"""The commands preview, up, refresh and destroy."""

import argparse
import io
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

from pulumi_embedded.cli import stacks
from pulumi_embedded.deployment.events import Listener
from pulumi_embedded.deployment.run import Run
from pulumi_embedded.deployment.targets import RunOptions, Targets
from pulumi_embedded.display.event_stream import EventStream, open_event_log
from pulumi_embedded.display.lines import Display, report_as_json
from pulumi_embedded.errors import CANCELLED, CHANGES, FAILED, NeedsCliError, UsageError
from pulumi_embedded.session import Session


def run_preview(session: Session, options: argparse.Namespace) -> int:
    stacks.select_only_stack(session)
    with _started_run(session, options, program=True) as running:
        succeeded = running.preview("update", running.run.preview)
        return _exit_status(succeeded, running.display, options, "preview")


def run_up(session: Session, options: argparse.Namespace) -> int:
    stacks.select_only_stack(session)
    return _run_operation(session, options, "update", Run.preview, Run.update, program=True)


def run_refresh(session: Session, options: argparse.Namespace) -> int:
    return _run_operation(
        session, options, "refresh", Run.preview_refresh, Run.refresh, program=options.run_program
    )


def run_destroy(session: Session, options: argparse.Namespace) -> int:
    status = _run_operation(session, options, "destroy", Run.preview_destroy, Run.destroy, program=False)
    if status == 0 and options.remove:
        if options.target or options.exclude:
            print("The stack was not removed, because it still has resources.")
        else:
            stacks.delete_stack(session, force=False, preserve_config=False)
            print("The resources in the stack have been deleted, and the configuration removed.")
    return status


_TITLES = {"update": "Updating", "refresh": "Refreshing", "destroy": "Destroying"}


def _run_operation(
    session: Session,
    options: argparse.Namespace,
    what: str,
    preview_run: Callable[[Run], bool],
    change: Callable[[Run], bool],
    *,
    program: bool,
) -> int:
    preview_only = getattr(options, "preview_only", False)
    interactive = sys.stdin.isatty() and not getattr(options, "non_interactive", False)
    if not (interactive or options.yes or options.skip_preview or preview_only):
        raise UsageError(
            "--yes or --skip-preview or --preview-only must be passed in to proceed when running in non-interactive mode"
        )
    with _started_run(session, options, program=program) as running:
        if preview_only or not options.skip_preview:
            succeeded = running.preview(what, lambda: preview_run(running.run))
            if preview_only or not succeeded:
                return _exit_status(succeeded, running.display, options, what)
            if program:
                running.run.start_next_program()
            if not options.yes and not _confirm(what):
                return CANCELLED
        succeeded = running.change(_TITLES[what], lambda: change(running.run))
        return _exit_status(succeeded, running.display, options, what)


@dataclass
class _DisplayedRun:
    """The run of a command, its display, and its event streams: `--event-log` and, for `--json`, stdout."""

    run: Run
    display: Display
    logged: EventStream | None
    printed: EventStream | None

    def preview(self, what: str, run: Callable[[], bool]) -> bool:
        """Preview a change, and show it. Returns whether that succeeded."""
        streams = [self.logged] if self.logged else []
        succeeded = self._show(f"Previewing {what}", run, streams, preview=True)
        if self.printed is not None:
            report = report_as_json(self.display.report, self.run.config_for_display(), self.display.masked)
            sys.stdout.write(report + "\n")
        return succeeded

    def change(self, title: str, run: Callable[[], bool]) -> bool:
        """Make a change, and show it. Returns whether that succeeded."""
        streams = [stream for stream in (self.logged, self.printed) if stream]
        return self._show(title, run, streams, preview=False)

    def _show(
        self, title: str, run: Callable[[], bool], streams: list[EventStream], *, preview: bool
    ) -> bool:
        self.display.start_run(title, preview=preview)
        for stream in streams:
            stream.start_run(self.run.config_for_display(), preview=preview)
        succeeded = False
        try:
            succeeded = run()
        finally:
            self.display.finish_run()
            for stream in streams:
                stream.finish_run(succeeded=succeeded)
        return succeeded


@contextmanager
def _started_run(session: Session, options: argparse.Namespace, *, program: bool) -> Iterator[_DisplayedRun]:
    """The run of a command and its display, both closed at the end."""
    if options.client:
        raise NeedsCliError("an inline program of the Automation API")
    display = _display(session, options)
    run_options = RunOptions(
        refresh=getattr(options, "refresh", False),
        continue_on_error=getattr(options, "continue_on_error", False),
        parallel=max(options.parallel, 1),
        clear_pending_creates=getattr(options, "clear_pending_creates", False),
        run_program=getattr(options, "run_program", False),
        targets=_targets_from_options(options),
        message=options.message,
        exec_kind=options.exec_kind,
    )
    with ExitStack() as opened:
        listener: Listener = display
        printed = logged = None
        if options.json:
            listener = printed = EventStream(listener, display.masked, lambda line: print(line, flush=True))
        if options.event_log:
            write_line = opened.enter_context(open_event_log(options.event_log))
            listener = logged = EventStream(listener, display.masked, write_line)
        run = Run(session, listener, run_options, program=program)
        opened.callback(run.close)
        opened.callback(display.stop)
        display.without_outputs = options.suppress_outputs
        display.set_secrets(run.secret_texts())
        display.on_closed = run.stop_starting_steps
        yield _DisplayedRun(run, display, logged, printed)


def _targets_from_options(options: argparse.Namespace) -> Targets:
    if options.target and options.exclude:
        raise UsageError("--target and --exclude cannot be used together")
    dependents = options.target_dependents or getattr(options, "exclude_dependents", False)
    replaced = tuple(getattr(options, "replace", ()))
    return Targets(tuple(options.target), tuple(options.exclude), dependents, replaced)


def _display(session: Session, options: argparse.Namespace) -> Display:
    choice = getattr(options, "color", "auto")
    terminal = sys.stdout.isatty() and os.environ.get("TERM", "dumb") != "dumb"
    color = choice in ("always", "raw") or (choice == "auto" and terminal)
    if terminal and not options.json and not options.diff and not getattr(options, "non_interactive", False):
        from pulumi_embedded.display.live import LiveDisplay  # imported here because rich is slow to import

        return LiveDisplay(session.stack.name, color=color)
    stream = io.StringIO() if options.json else sys.stdout
    return Display(session.stack.name, color=color, details=options.diff, stream=stream)


def _exit_status(succeeded: bool, display: Display, options: argparse.Namespace, what: str) -> int:
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
