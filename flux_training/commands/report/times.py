"""What a run took: its times, and its cost by component. Pure."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any

from flux_training.training.bill import show_dollars
from flux_training.training.cost import usd_of
from flux_training.training.estimates.actuals import WASTE_WORDS, Waste, advice, paid_seconds_of, waste_of
from flux_training.training.runs.progress import RunProgress
from flux_training.training.runs.run_state import show_duration
from flux_training.training.values import mapping, number, read_time
from flux_training.training.words import one_line

# The labels of a Kelpie job's timestamps.
TIMES = {
    "created": "Queued",
    "started": "Started",
    "completed": "Completed",
    "failed": "Failed",
    "canceled": "Canceled",
}
MAX_RESTARTS_SHOWN = 20
# `show_duration` shows less than this in seconds.
MAX_SHOWN_AS_SECONDS = 90
# The labels of paid times that `gpu_seconds` does not include, by the field of Waste.
NOT_INCLUDED = {
    "downloads": "downloads of the last start, not included above",
    "idle": "idle after the last job (estimated), not included above",
}


@dataclass(frozen=True)
class CostPart:
    """What a part of a run took. `time` and `cost` in words; `cost` is empty without a price. `is_total`: the sum of the parts above."""

    name: str
    time: str
    cost: str
    is_total: bool = False


def cost_parts(
    progress: RunProgress, usd_an_hour: float | None, idle_seconds: float | None = None
) -> list[CostPart]:
    """The GPU time by what it was used for, its total, and the time before and after it; empty before the trainer's first report.

    `idle_seconds`: the run's share of the replicas' idle time.
    """
    total = progress.gpu_seconds
    if not total:
        return []
    seconds = asdict(waste_of(progress, idle_seconds))
    others = {words: seconds.pop(cause) for cause, words in NOT_INCLUDED.items()}
    parts = {WASTE_WORDS[cause]: spent for cause, spent in seconds.items() if spent}
    training = max(0.0, total - sum(parts.values()))
    # Rounded parts need not add up to the rounded total. Where seconds are shown, the training's are what the others leave.
    rest = round(total) - sum(map(round, parts.values()))
    training_shown = rest if total < MAX_SHOWN_AS_SECONDS and rest >= 0 else training

    def part(name: str, spent: float, time: float | None = None, *, is_total: bool = False) -> CostPart:
        cost = usd_of(spent, usd_an_hour)
        shown = show_duration(spent if time is None else time)
        return CostPart(name, shown, "" if cost is None else show_dollars(cost), is_total)

    return [
        part("training", training, training_shown),
        *(part(name, spent) for name, spent in parts.items()),
        part("GPU time", total, is_total=True),
        *(part(words, spent) for words, spent in others.items() if spent),
    ]


def times_of_run(
    record: Mapping[str, Any], progress: RunProgress, *, is_stand_in: bool
) -> list[tuple[str, str]]:
    """Label and value of each known time, and of the node. `record` is the fetched run.json."""
    facts = mapping(record.get("kelpie"))
    times = {name: time for name in TIMES if (time := read_time(facts.get(name)))}
    created, started = times.get("created"), times.get("started")
    ended = times.get("completed") or times.get("failed") or times.get("canceled")
    found = [(TIMES[name], f"{time:%Y-%m-%d %H:%M:%S} UTC") for name, time in times.items()]
    if created and started:
        found.append(("Waited for a node", _show_duration_between(created, started)))
    if created and ended:
        found.append(("From queue to end", _show_duration_between(created, ended)))
    if progress.seconds_per_step is not None:
        found.append(("Time per step", f"{progress.seconds_per_step:.2f} s"))
    hints = [] if is_stand_in else advice(waste_of_run(record, progress), paid_seconds_of(progress))
    found += [("To pay less", hint) for hint in hints]
    price = price_of_run(record)
    if price is not None:
        example = " (an example)" if is_stand_in else ""
        found.append(("Price of the node", f"${price:.3f} an hour{example}"))
    if progress.gpu:
        found.append(("GPU", progress.gpu))
    if restarts := describe_restarts(progress):
        found.append(("Went on after restarts", restarts))
    if facts.get("machine_id"):
        found.append(("Machine", one_line(str(facts["machine_id"]), 60)))
    return found


def describe_restarts(progress: RunProgress) -> str:
    """`from steps 250, 250, 500`; empty if nothing is known of restarts. A step that comes again brought no new checkpoint."""
    steps = [f"{step:,}" for step in progress.resumed[-MAX_RESTARTS_SHOWN:]]
    return f"from step{'s' if len(steps) > 1 else ''} {', '.join(steps)}" if steps else ""


def idle_seconds_of(record: Mapping[str, Any]) -> float | None:
    """The run's share of the replicas' idle time, from the fetched run.json."""
    return number(mapping(record.get("estimate")).get("idle_seconds"))


def waste_of_run(record: Mapping[str, Any], progress: RunProgress) -> Waste:
    return waste_of(progress, idle_seconds_of(record))


def price_of_run(record: Mapping[str, Any]) -> float | None:
    """In dollars an hour, from the fetched run.json."""
    return number(mapping(record.get("cost")).get("usdAnHour"))


def _show_duration_between(start: datetime, end: datetime) -> str:
    return show_duration((end - start).total_seconds())
