"""A stack of 1, 10, 100, 1000 jobs: what `up` from nothing and `up` with nothing to do cost."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tests.bench.stack import Cost, cost_of, stack_of, up_line


def slope(counts: list[int], folder: Path) -> str:
    """Once each: an `up` from nothing cannot be repeated on one stack, and a thousand jobs take minutes."""
    lines = [
        "### A stack of N jobs, each with a dataset of its own (embedded engine, cloud without nodes)",
        "",
        "| N | up from nothing s | no-op s | MB together (largest process) | state a job as `make up` stores it, bytes "
        "| unpacked: without its dataset | its dataset | requests a job | no-op requests |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    seen: dict[int, tuple[Cost, Cost]] = {}
    for count in counts:
        with stack_of(count, folder / f"stack-{count}") as checkout:
            first, again = cost_of(checkout, up_line()), cost_of(checkout, up_line())
            state = json.loads(checkout.engine("stack", "export"))
            stored = _stored(checkout.root / ".pulumi/stacks")
        seen[count] = first, again
        whole, datasets = _long(state), _long(_of_type(state, "flux:Dataset"))
        asked = first.requests.total() / count
        lines.append(
            f"| {count} | {first.seconds:.1f} | {again.seconds:.1f} | {max(first.memory, again.memory):.0f} "
            f"({max(first.largest, again.largest):.0f}) | {stored / count:.0f} | {(whole - datasets) / count:.0f} "
            f"| {datasets / count:.0f} | {asked:.1f} | {again.requests.total()} |"
        )
    if 100 in seen and 1000 in seen:
        up, noop = (seen[1000][i].seconds / seen[100][i].seconds for i in (0, 1))
        lines += ["", f"time(1000) / time(100): {up:.1f} for up from nothing, {noop:.1f} for no-op."]
    return "\n".join([*lines, ""])


def _stored(folder: Path) -> int:
    """Bytes of the one state there, without the one before it."""
    (state,) = (path for path in folder.rglob("dev.json*") if path.suffix != ".bak")
    return state.stat().st_size


def _of_type(state: dict[str, Any], ending: str) -> list[dict[str, Any]]:
    return [one for one in state["deployment"]["resources"] if one["type"].endswith(ending)]


def _long(content: object) -> int:
    """In bytes, as the state file has it. What all jobs share counts too: with one job it is most of it."""
    return len(json.dumps(content, separators=(",", ":"), ensure_ascii=False).encode())
