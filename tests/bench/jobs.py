"""How long `up` from nothing and `up` with nothing to do take for stacks of 1, 10, 100 and 1,000 jobs."""

from pathlib import Path

from tests.bench.stack import CommandCost, cost_of, stack_of, up_line


def scaling(counts: list[int], folder: Path) -> str:
    """One measurement each: an `up` from nothing cannot be repeated on one stack, and a thousand jobs take minutes."""
    lines = [
        "### A stack of N jobs, each with a dataset of its own (embedded engine, cloud without nodes)",
        "",
        "| N | up from nothing s | no-op s | state bytes per job | requests per job | no-op requests |",
        "|---|---|---|---|---|---|",
    ]
    costs: dict[int, tuple[CommandCost, CommandCost]] = {}
    for count in counts:
        with stack_of(count, folder / f"stack-{count}") as checkout:
            first, again = cost_of(checkout, up_line()), cost_of(checkout, up_line())
            (state,) = (checkout.root / ".pulumi/stacks").rglob("dev.json*[!k]")
            size = state.stat().st_size
        costs[count] = first, again
        lines.append(
            f"| {count} | {first.seconds:.1f} | {again.seconds:.1f} | {size / count:.0f} "
            f"| {first.requests.total() / count:.1f} | {again.requests.total()} |"
        )
    if 100 in costs and 1000 in costs:
        up, noop = (costs[1000][i].seconds / costs[100][i].seconds for i in (0, 1))
        lines += ["", f"time(1000) / time(100): {up:.1f} for up from nothing, {noop:.1f} for no-op."]
    return "\n".join([*lines, ""])
