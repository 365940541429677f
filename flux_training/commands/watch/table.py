"""The table of jobs that `flux status` prints and that `flux status --watch` and `make up` keep up to date."""

from collections.abc import Callable

from rich.console import Group, RenderableType
from rich.progress_bar import ProgressBar
from rich.table import Column, Table
from rich.text import Text

from flux_training.commands.watch.watcher import JobRow, StackStatus
from flux_training.training.bill import FREE, show_dollar_range, show_dollars, show_hours
from flux_training.training.estimates.actuals import advice
from flux_training.training.runs.progress import loss_note
from flux_training.training.runs.run_state import RunState, show_duration

# In a terminal narrower than the first, the progress bar is left out; below the second, so are the columns that only matter
# when something is wrong.
MIN_WIDTH_WITH_BAR, MIN_WIDTH_WITH_NODE = 110, 84
SHORT_ID = 8
NOTHING = "-"
RIGHT_ALIGNED = {"Loss", "Left", "Cost", "Restarts"}

Cell = Callable[[JobRow], RenderableType]


def render_status_table(stack: StackStatus, width: int, local: bool, *, bar: bool = True) -> Group:
    """The table, below it the problems and the total cost. `width` is the terminal's, in columns."""
    columns = _table_columns(width, bar)
    table = Table(
        *(
            Column(title, no_wrap=True, justify="right" if title in RIGHT_ALIGNED else "left")
            for title in columns
        ),
        box=None,
        pad_edge=False,
        header_style="dim",
        padding=(0, 3, 0, 0),
    )
    for row in stack.rows:
        table.add_row(*(cell(row) for cell in columns.values()))
    parts: list[RenderableType] = [table]
    parts += [Text(f"{row.name}: {row.differs}", style="dim") for row in stack.rows if row.differs]
    parts += [Text(f"{row.name}: {row.problem}", style="red") for row in stack.rows if row.problem]
    doing = [(row.name, row.status.activity) for row in stack.rows]
    parts += [Text(f"{name}: {activity}", style="dim") for name, activity in doing if activity]
    notes = {row.trainer_note for row in stack.rows} - {""}
    parts += [Text(note, style="yellow") for note in sorted(notes)]
    faulty = [(row.name, faults) for row in stack.rows if (faults := row.status.progress.faults)]
    parts += [Text(f"{name}: {faults}", style="yellow") for name, faults in faulty]
    if note := loss_note(row.status.progress for row in stack.rows):
        parts.append(Text(note, style="dim"))
    wasted = [(row.name, row.waste.interruption_waste_in_words) for row in stack.rows]
    parts += [Text(f"{name}: {waste}", style="dim") for name, waste in wasted if waste]
    expected = [(row.name, show_dollar_range(row.expected)) for row in stack.rows]
    parts += [Text(f"{name}: {cost} expected in the end", style="dim") for name, cost in expected if cost]
    parts += [Text(line, style="dim") for line in _waste_lines(stack, local)]
    if stack.spent is not None:
        so_far = "" if stack.has_ended else " so far"
        note = f" {FREE}" if local else ""
        parts.append(Text(f"Total {show_dollars(stack.spent)}{so_far}.{note}", style="dim"))
    return Group(*parts)


def _waste_lines(stack: StackStatus, local: bool) -> list[str]:
    """The paid time of ended runs that trained nothing, and how to have less of it; the local cloud is not paid for."""
    waste, paid = stack.waste, stack.paid_seconds
    if local or not stack.has_ended or not waste.total:
        return []
    total = show_hours(paid + waste.idle)
    heading = f"Paid without training: {show_hours(waste.total)} of {total} ({waste.causes_in_words})"
    return [heading, *(f"- {line}" for line in advice(waste, paid))]


def steps_done(row: JobRow) -> int:
    steps = row.status.job.steps
    return steps if row.status.state == RunState.COMPLETED else min(row.status.progress.step or 0, steps)


def _table_columns(width: int, bar: bool) -> dict[str, Cell]:
    columns: dict[str, Cell] = {
        "Job": lambda row: Text(row.name, style="bold"),
        "State": lambda row: Text(row.status.phase.partition(",")[0], style=_style(row)),
    }
    if bar and width >= MIN_WIDTH_WITH_BAR:
        columns[""] = lambda row: ProgressBar(row.status.job.steps, steps_done(row), width=20)
    columns |= {
        "Steps": lambda row: f"{steps_done(row)}/{row.status.job.steps}",
        "Loss": _loss,
        "Left": _format_time_left,
        "Cost": lambda row: show_dollars(row.spent) if row.spent is not None else NOTHING,
    }
    if width >= MIN_WIDTH_WITH_NODE:
        columns["Node"] = lambda row: row.machine[:SHORT_ID] or NOTHING
        columns["Restarts"] = lambda row: str(row.status.progress.restarts or 0)
    return columns


def _style(row: JobRow) -> str:
    if row.problem:
        return "red"
    return {RunState.COMPLETED: "green", RunState.RUNNING: "cyan"}.get(row.status.state, "")


def _loss(row: JobRow) -> str:
    loss = row.status.progress.loss
    return NOTHING if loss is None else f"{loss:.4f}"


def _format_time_left(row: JobRow) -> str:
    seconds = row.status.progress.eta_seconds
    return show_duration(seconds) if seconds is not None and row.status.state == RunState.RUNNING else NOTHING
