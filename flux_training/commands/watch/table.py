"""The one table of jobs: `flux status` prints it, `flux status --watch` and `make up` keep it up to date."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from rich.console import Group, RenderableType
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from flux_training.commands.watch.watcher import Row, View
from flux_training.training.bill import NOBODY_PAYS, dollars
from flux_training.training.runs.run_state import RunState, in_words

# Columns of terminal below which the bar goes, and then what only a person who looks for a fault needs.
WIDTH_WITH_BAR, WIDTH_WITH_NODE = 110, 84
SHORT_ID = 8
NOTHING = "-"


def render(view: View, width: int, local: bool, *, bar: bool = True) -> Group:
    """The table, what is wrong below it, and the sum. `width` in columns of the terminal; a pipe wants no bar."""
    parts: list[RenderableType] = [_table(view.rows, _columns(width, bar))]
    parts += [Text(f"{row.name}: {row.problem}", style="red") for row in view.rows if row.problem]
    if view.spent is not None:
        so_far = "" if view.ended else " so far"
        note = f" {NOBODY_PAYS}" if local else ""
        parts.append(Text(f"Together {dollars(view.spent)}{so_far}.{note}", style="dim"))
    return Group(*parts)


def state_word(row: Row) -> str:
    """One or two words: for a running job those of the launcher, which knows more than the queue."""
    sight = row.sight
    if sight.state == RunState.COMPLETED and not sight.ended:
        return "finishing"
    return sight.told.state or sight.state if sight.state == RunState.RUNNING else sight.state


def steps_done(row: Row) -> int:
    """Steps, never more than there are."""
    job = row.sight.job
    return job.steps if row.sight.state == RunState.COMPLETED else min(row.sight.told.step or 0, job.steps)


def _table(rows: Sequence[Row], columns: Sequence[tuple[str, Callable[[Row], RenderableType]]]) -> Table:
    table = Table(box=None, pad_edge=False, header_style="dim", padding=(0, 3, 0, 0))
    for heading, _ in columns:
        table.add_column(
            heading,
            no_wrap=True,
            justify="right" if heading in ("Loss", "Left", "Cost", "Restarts") else "left",
        )
    for row in rows:
        table.add_row(*(cell(row) for _, cell in columns))
    return table


def _columns(width: int, bar: bool) -> list[tuple[str, Callable[[Row], RenderableType]]]:
    columns: list[tuple[str, Callable[[Row], RenderableType]]] = [
        ("Job", lambda row: Text(row.name, style="bold")),
        ("State", lambda row: Text(state_word(row), style=_style(row))),
    ]
    if bar and width >= WIDTH_WITH_BAR:
        columns.append(
            ("", lambda row: ProgressBar(total=row.sight.job.steps, completed=steps_done(row), width=20))
        )
    columns += [
        ("Steps", lambda row: f"{steps_done(row)}/{row.sight.job.steps}"),
        ("Loss", lambda row: _loss(row)),
        ("Left", lambda row: _left(row)),
        ("Cost", lambda row: dollars(row.spent) if row.spent is not None else NOTHING),
    ]
    if width >= WIDTH_WITH_NODE:
        columns += [
            ("Node", lambda row: (row.instance or row.machine)[:SHORT_ID] or NOTHING),
            ("Restarts", lambda row: str(row.sight.told.restarts or 0)),
        ]
    return columns


def _style(row: Row) -> str:
    if row.problem:
        return "red"
    styles: dict[str, str] = {RunState.COMPLETED: "green", RunState.RUNNING: "cyan"}
    return styles.get(row.sight.state, "")


def _loss(row: Row) -> str:
    loss = row.sight.told.loss
    return NOTHING if loss is None else f"{loss:.4f}"


def _left(row: Row) -> str:
    left = row.sight.told.eta_seconds
    return in_words(left) if left is not None and row.sight.state == RunState.RUNNING else NOTHING
