"""Shows a run on a terminal: a tree of the resources that change, with the status of each."""

import time
from dataclasses import dataclass
from typing import Any

from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

from pulumi_embedded.deployment import events
from pulumi_embedded.deployment.events import ResourceStep
from pulumi_embedded.display.lines import (
    STYLES,
    SYMBOLS,
    WORDS,
    Display,
    changed_keys,
    label_of,
    seconds_text,
)


@dataclass
class _TreeRow:
    urn: str
    parent: str
    op: str = events.SAME
    status: str = ""
    info: str = ""
    since: float | None = None

    @property
    def shown(self) -> bool:
        return bool(self.status or self.info)


class LiveDisplay(Display):
    """Like `Display`, but with a tree instead of lines while the run lasts."""

    def __init__(self, stack: str, *, color: bool = True) -> None:
        super().__init__(stack, color=color)
        self._console = Console(highlight=False, emoji=False)
        self._rows: dict[str, _TreeRow] = {}
        self._live: Live | None = None

    def start_run(self, title: str, *, preview: bool) -> None:
        super().start_run(title, preview=preview)
        self._rows = {}
        self._live = Live(
            get_renderable=self._tree, console=self._console, refresh_per_second=8, transient=False
        )
        self._live.start()

    def on_step_started(self, step: ResourceStep) -> None:
        if not self.preview and not step.hidden:
            self._set(step, WORDS[step.op][1], time.monotonic())

    def on_step_ended(self, step: ResourceStep) -> None:
        with self._lock:
            self.report.steps.append(step)
        if not step.hidden:
            took = f" ({seconds_text(step.seconds)})" if step.seconds and not self.preview else ""
            self._set(
                step,
                WORDS[step.op][0 if self.preview else 2] + (took if step.op != events.SAME else ""),
                None,
            )

    def on_step_failed(self, step: ResourceStep, message: str) -> None:
        self.report.failed_urns.add(step.urn)
        self._set(step, "**failed**", None)
        self.on_message(events.ERROR, step.urn, message)

    def on_message(self, severity: int, urn: str, text: str, *, ephemeral: bool = False) -> None:
        if urn in self._rows and severity != events.DEBUG:
            self._rows[urn].info = self.masked(text.strip().splitlines()[0] if text.strip() else "")
        if not ephemeral or urn not in self._rows:
            super().on_message(severity, urn, text, ephemeral=ephemeral)

    def finish_run(self) -> None:
        """Stop updating the tree, and show diagnostics, outputs and summary."""
        self.stop()
        super().finish_run()

    def stop(self) -> None:
        """Stop updating the tree, and restore the terminal."""
        if self._live is not None:
            self._live.stop()
            self._live = None

    def _set(self, step: ResourceStep, status: str, since: float | None) -> None:
        with self._lock:
            resource = step.new or step.old
            row = self._rows.setdefault(step.urn, _TreeRow(step.urn, resource.parent if resource else ""))
            if step.op == events.SAME and row.shown:
                return
            row.op, row.status, row.since = step.op, status, since
            row.info = " ".join(part for part in (changed_keys(step), step.note) if part) or row.info

    def _tree(self) -> Table:
        table = Table.grid(padding=(0, 2, 0, 0))
        table.add_column(no_wrap=True)
        table.add_column(no_wrap=True)
        table.add_column()
        with self._lock:
            below: dict[str, list[_TreeRow]] = {}
            for row in self._rows.values():
                below.setdefault(row.parent if row.parent in self._rows else "", []).append(row)
            for row in below.get("", []):
                self._add(table, row, below, 0)
        return table

    def _add(self, table: Table, row: _TreeRow, below: dict[str, list[_TreeRow]], depth: int) -> None:
        """Add a row and its children, if there is anything to show."""
        if not _has_content(row, below):
            return
        style: Any = STYLES.get(SYMBOLS[row.op], "")
        status = row.status
        if row.since is not None:
            status += f" ({time.monotonic() - row.since:.0f}s)"
        name = Text(f" {SYMBOLS[row.op]} {'  ' * depth}", style=style) + Text(label_of(row.urn), style="")
        table.add_row(name, Text(status, style=style), Text(row.info, style="dim"))
        for child in below.get(row.urn, []):
            self._add(table, child, below, depth + 1)


def _has_content(row: _TreeRow, below: dict[str, list[_TreeRow]]) -> bool:
    return row.shown or any(_has_content(child, below) for child in below.get(row.urn, []))
