"""An estimate as text: for the preview, for an exceeded budget, and next to what a run really took."""

from collections.abc import Mapping, Sequence
from typing import Any

from flux_training.training.cluster_settings import BudgetSettings
from flux_training.training.cost import HOUR_SECONDS, Bill, Line, Rate, StackBill, cost_range, usd_of
from flux_training.training.estimates.ranges import Range
from flux_training.training.runs.records import EstimateRecord

FREE = "The local cloud is free: its prices are examples."
CHEAPER = "raise the limit, train fewer jobs or steps, or choose another cluster.gpu or priority"


def show_hours(seconds: float) -> str:
    """`1.0 h`, `12 min`, `45 s`."""
    if seconds >= 5400:
        return f"{seconds / HOUR_SECONDS:.1f} h"
    return f"{seconds / 60:.0f} min" if seconds >= 90 else f"{seconds:.0f} s"


def show_dollars(usd: float | None) -> str:
    """`$0.45`; with more digits for less than ten cents, so that small costs do not look like zero."""
    if usd is None:
        return "unknown"
    return f"${usd:.2f}" if usd >= 0.095 or usd == 0 else f"${usd:.4f}"


def show_dollar_range(cost: Range | None) -> str:
    """`$0.38 to $0.83`; empty if it is unknown or exact."""
    if cost is None or show_dollars(cost.low) == show_dollars(cost.high):
        return ""
    return f"{show_dollars(cost.low)} to {show_dollars(cost.high)}"


def show_time_range(time: Range) -> str:
    """`45 min to 1.6 h`, or the time if it is exact."""
    low, high = show_hours(time.low), show_hours(time.high)
    return low if low == high else f"{low} to {high}"


def bill_heading(bill: Bill) -> str:
    """`RTX 5090 (32 GB) at priority high, $0.450 an hour`."""
    price = bill.rate.usd_an_hour
    each = f"${price:.3f} an hour" if price is not None else f"price unknown: {bill.rate.trouble}"
    return f"{bill.rate.gpu} at priority {bill.rate.priority}, {each}"


def bill_rows(bill: Bill) -> list[tuple[str, str, str, str, str]]:
    """(job, what, likely time, likely dollars, range of dollars) for each line, then the idle time and the total."""
    found = [_row(line) for line in bill.lines]
    if bill.idle_seconds:
        replicas = "1 replica" if bill.replicas == 1 else f"{bill.replicas} replicas"
        what = f"{replicas} scaling down"
        cost = show_dollar_range(cost_range(bill.idle, bill.rate.usd_an_hour))
        found.append(("idle", what, show_hours(bill.idle_seconds), show_dollars(bill.idle_usd), cost))
    known = [line.seconds for line in bill.lines if line.seconds is not None]
    time = show_hours(sum(known) + bill.idle_seconds) if len(known) == len(bill.lines) else "unknown"
    return [*found, ("total", "", time, show_dollars(bill.usd), show_dollar_range(bill.cost))]


def _row(line: Line) -> tuple[str, str, str, str, str]:
    what = f"{line.steps:,} steps" + (", already queued" if line.state == "queued" else "")
    return (
        line.job,
        what,
        "unknown" if line.seconds is None else show_hours(line.seconds),
        show_dollars(line.usd),
        show_dollar_range(line.cost),
    )


def bill_table(bill: Bill) -> str:
    """The rows in columns, each indented by two."""
    content = bill_rows(bill)
    widths = [max(len(row[column]) for row in content) for column in range(4)]
    return "\n".join(
        f"  {row[0]:<{widths[0]}}  {row[1]:<{widths[1]}}  {row[2]:>{widths[2]}}  {row[3]:>{widths[3]}}  {row[4]}".rstrip()
        for row in content
    )


def explain_lines(lines: Sequence[Line]) -> str:
    """The parts of each job's estimate, in columns; empty if nothing is trained or nothing is known."""
    return "\n".join(_explanation_rows(line) for line in lines if line.parts)


def _explanation_rows(line: Line) -> str:
    rows = [
        (part.name.value, part.what, show_hours(part.seconds.likely), show_time_range(part.seconds))
        for part in line.parts
    ]
    if line.time:
        rows.append(("total", "", show_hours(line.time.likely), show_time_range(line.time)))
    widths = [max(len(row[column]) for row in rows) for column in range(3)]
    lines = [
        f"  {row[0]:<{widths[0]}}  {row[1]:<{widths[1]}}  {row[2]:>{widths[2]}}  {row[3]}" for row in rows
    ]
    return "\n".join([f"{line.job}, from {line.basis}:", *lines])


def sources_of_time_estimates(bill: Bill) -> list[str]:
    """The sources of the times, without duplicates."""
    return list(dict.fromkeys(line.basis for line in bill.lines))


def describe_bill(bill: Bill, local: bool) -> str:
    """What a preview says about the cost; empty if nothing is trained and no replica stays."""
    parts = []
    if bill.lines:
        closing = f"Times from {'; '.join(sources_of_time_estimates(bill))}." + (f" {FREE}" if local else "")
        parts = [f"Estimated cost on {bill_heading(bill)}:", bill_table(bill), closing]
    note = "" if local else single_replica_note(bill)
    return "\n".join(filter(None, [*parts, describe_cost_without_work(bill), note]))


def short_limit_warnings(bill: StackBill, hours: Mapping[str, float | None]) -> list[str]:
    """A warning for each run whose `maxHours` (`hours`, by job) end before its estimate. It would fail, and be paid for."""
    found = []
    for line in bill.lines:
        limit = hours.get(line.job)
        if limit is not None and line.time and limit * 3600 < line.time.low:
            expected = show_time_range(line.time)
            found.append(
                f"{line.job}: maxHours {limit:g} would end the training, which takes {expected}; raise maxHours, or lower train.steps"
            )
    return found


def single_replica_note(bill: Bill) -> str:
    """What a failed attempt costs with one replica: Kelpie gives the job only to another machine."""
    if not bill.lines or bill.replicas != 1:
        return ""
    return "With one replica, an attempt that fails costs up to 5 idle minutes more, until the machine is replaced."


def describe_cost_without_work(bill: Bill) -> str:
    """What replicas that stay without work cost; empty if none does."""
    sentences = []
    if bill.always:
        what = f"cluster.minReplicas keeps {bill.always} rented even without work; no total includes that"
        sentences.append(f"{what}{_describe_cost_per_day(bill.rate, bill.always)}.")
    if bill.dev:
        what = f"dev.enabled keeps another replica ({bill.dev.gpu}) rented all day; no total includes that"
        sentences.append(f"{what}{_describe_cost_per_day(bill.dev, 1)}.")
    return " ".join(sentences)


def _describe_cost_per_day(rate: Rate, replicas: int) -> str:
    return "" if rate.usd_an_hour is None else f": {show_dollars(24 * rate.usd_an_hour * replicas)} a day"


def budget_findings(budget: BudgetSettings, bill: Bill) -> list[str]:
    """One finding per exceeded limit. A limit that cannot be checked counts as exceeded."""
    if not bill.lines or not budget.has_any_limit:
        return []
    if bill.cost is None:
        why = bill.rate.trouble or next(line.basis for line in bill.lines if line.usd is None)
        return [
            f"the budget cannot be checked: {why}; set another cluster.gpu or priority, or remove `budget`"
        ]
    findings = []
    limit = budget.max_usd_per_job
    for line in bill.lines:
        if limit is not None and line.cost is not None and line.time is not None and line.cost.high > limit:
            findings.append(
                f"budget.maxUsdPerJob is {show_dollars(limit)}, but {line.job} would cost up to {show_dollars(line.cost.high)} "
                f"({line.steps:,} steps, {show_time_range(line.time)}); {CHEAPER}"
            )
    if budget.max_usd is not None and bill.cost.high > budget.max_usd:
        findings.append(
            f"budget.maxUsd is {show_dollars(budget.max_usd)}, but this would cost up to {show_dollars(bill.cost.high)} on {bill_heading(bill)}:\n"
            f"{bill_table(bill)}\n{CHEAPER}"
        )
    return findings


def estimate_record(bill: Bill, job: str) -> dict[str, Any] | None:
    """A job's estimate as run.json stores it; None if the bill does not include the job."""
    line = next((line for line in bill.lines if line.job == job), None)
    if line is None:
        return None
    return {
        "usd": None if line.usd is None else round(line.usd, 4),
        "seconds": None if line.seconds is None else round(line.seconds, 1),
        "usd_low": None if line.cost is None else round(line.cost.low, 4),
        "usd_high": None if line.cost is None else round(line.cost.high, 4),
        "gpu": bill.rate.gpu,
        "priority": bill.rate.priority,
        "usd_an_hour": bill.rate.usd_an_hour,
        "idle_seconds": round(bill.idle_seconds / len(bill.lines), 1),
        "basis": line.basis,
    }


def cost_record_of_run(estimate: EstimateRecord | None, gpu_seconds: float | None) -> dict[str, Any]:
    """A run's cost for the stack outputs: the estimate in its run.json, and its GPU time so far at that price.

    The actual cost is an estimate as well: SaladCloud has no bill per job, and the worker's
    downloads and uploads are not included.
    """
    estimate = estimate or EstimateRecord()
    cost: dict[str, Any] = {
        "gpu": estimate.gpu or None,
        "usdAnHour": estimate.usd_an_hour,
        "estimateUsd": estimate.usd,
        "estimateHours": _range_in_hours(estimate.seconds),
        "actualHours": _range_in_hours(gpu_seconds),
        "idleHours": _range_in_hours(estimate.idle_seconds),
    }
    actual = usd_of(gpu_seconds, estimate.usd_an_hour)
    if actual is not None:
        cost["actualUsd"] = round(actual, 4)
    return {key: value for key, value in cost.items() if value is not None}


def describe_actual_cost(cost: Mapping[str, Any]) -> str:
    """`about $0.43 for 0.96 h of GPU (estimated $0.45)`; empty if nothing is known."""
    actual, time, estimate = cost.get("actualUsd"), cost.get("actualHours"), cost.get("estimateUsd")
    if actual is None or time is None:
        return ""
    estimated = f" (estimated {show_dollars(estimate)})" if estimate is not None else ""
    return f"about {show_dollars(actual)} for {show_hours(time * HOUR_SECONDS)} of GPU{estimated}"


def _range_in_hours(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds / HOUR_SECONDS, 4)
