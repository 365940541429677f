"""The page at `/`: container groups, nodes, the queue with each job's live loss and samples, and what it would cost.

It asks nobody but this server: its own policy forbids it.
"""

from __future__ import annotations

import json
import sqlite3
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

from localcloud.database import now
from localcloud.salad.catalog import GPU_CLASSES, dollars_an_hour
from localcloud.sight import JobSight, see

POLICY = "default-src 'none'; img-src 'self'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; connect-src 'self'"
MOST_JOBS = 40
STATUSES = ("running", "pending", "completed", "failed", "canceled")

STYLE = """
:root { color-scheme: light dark; --ink: #1d2530; --soft: #667085; --line: #e3e6ec; --card: #fff; --page: #f6f7f9;
  --running: #1f6feb; --pending: #9a6b00; --completed: #1a7f37; --failed: #c62828; --canceled: #667085; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6e9ef; --soft: #97a1b3; --line: #2c3340; --card: #1a1f28;
  --page: #12161d; --running: #6ea8ff; --pending: #e2b340; --completed: #5fcf80; --failed: #ff7b72; } }
body { font: 15px/1.45 system-ui, sans-serif; color: var(--ink); background: var(--page); margin: 0; }
main { max-width: 76rem; margin: 0 auto; padding: 1.5rem; }
h1 { font-size: 1.35rem; margin: 0; } h2 { font-size: 1rem; margin: 2rem 0 .5rem; }
header { display: flex; flex-wrap: wrap; gap: .5rem 2rem; align-items: baseline; }
.soft { color: var(--soft); } .number { font-variant-numeric: tabular-nums; }
table { border-collapse: collapse; width: 100%; background: var(--card); border: 1px solid var(--line); }
td, th { padding: .4rem .8rem; text-align: left; border-top: 1px solid var(--line); }
th { font-weight: 600; color: var(--soft); font-size: .85rem; border-top: 0; }
.jobs { display: grid; grid-template-columns: repeat(auto-fill, minmax(22rem, 1fr)); gap: 1rem; }
.job { background: var(--card); border: 1px solid var(--line); border-radius: .5rem; padding: .9rem 1rem; }
.job h3 { margin: 0; font-size: 1rem; display: flex; justify-content: space-between; gap: 1rem; }
.state { font-weight: 600; font-size: .85rem; }
.running { color: var(--running); } .pending { color: var(--pending); } .completed { color: var(--completed); }
.failed { color: var(--failed); } .canceled { color: var(--canceled); }
progress { width: 100%; height: .5rem; accent-color: var(--running); }
svg { width: 100%; height: 5rem; display: block; margin: .5rem 0; border-bottom: 1px solid var(--line); }
polyline { fill: none; stroke: var(--running); stroke-width: 1.5; vector-effect: non-scaling-stroke; }
polyline.each { opacity: .3; }
.samples { display: grid; grid-template-columns: repeat(6, 1fr); gap: .3rem; }
.samples img { width: 100%; aspect-ratio: 1; object-fit: cover; border-radius: .25rem; background: var(--line); }
.warning { border: 1px solid var(--pending); border-radius: .5rem; padding: .5rem 1rem; margin-top: 1rem; }
"""
# The page renews its own content; without JavaScript it is loaded anew.
SCRIPT = """
setInterval(async () => {
  try {
    const page = new DOMParser().parseFromString(await (await fetch("/")).text(), "text/html");
    document.querySelector("main").replaceWith(page.querySelector("main"));
    document.title = page.title;
  } catch { document.title = "Local cloud (stopped)"; }
}, 2000);
"""


@dataclass(frozen=True)
class Picture:
    """What the database holds, read at one moment."""

    groups: list[sqlite3.Row]
    instances: list[sqlite3.Row]
    jobs: list[sqlite3.Row]
    counts: dict[str, int]
    dollars: dict[str, float]  # by group id; groups that are gone are in it too
    chaos: dict[str, Any]


def read(database: sqlite3.Connection, chaos: dict[str, Any]) -> Picture:
    """Look at the database; `chaos` is what is set to go wrong. In the thread that owns the connection."""
    cost = (
        "SELECT group_id, SUM((billed_until - running_from) * dollars_an_hour / 3600) FROM billing GROUP BY 1"
    )
    newest = (
        "SELECT * FROM jobs ORDER BY status NOT IN ('running', 'pending'), created DESC, rowid DESC LIMIT ?"
    )
    return Picture(
        database.execute("SELECT * FROM groups ORDER BY created").fetchall(),
        database.execute("SELECT * FROM instances ORDER BY created").fetchall(),
        database.execute(newest, (MOST_JOBS,)).fetchall(),
        dict(database.execute("SELECT status, COUNT(*) FROM jobs GROUP BY status").fetchall()),
        {str(group): float(dollars) for group, dollars in database.execute(cost)},
        chaos,
    )


def render(picture: Picture, objects: Path) -> str:
    """The page. Reads files below `objects`, the folder of the buckets."""
    total = sum(picture.dollars.values())
    counts = ", ".join(f"{picture.counts[one]} {one}" for one in STATUSES if one in picture.counts)
    shown = "".join(_job(see(row, objects)) for row in picture.jobs)
    rest = sum(picture.counts.values()) - len(picture.jobs)
    more = f'<p class="soft">and {rest} more</p>' if rest else ""
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>Local cloud: {escape(counts or "no job")}</title><link rel="icon" href="data:,">
<noscript><meta http-equiv="refresh" content="5"></noscript><style>{STYLE}</style></head>
<body><main>
<header><h1>Local cloud</h1><span>{escape(counts or "the queue is empty")}</span>
<span class="number" title="by the second of running, at SaladCloud's kind of prices">Cost so far, were this SaladCloud:
 <b>${total:.4f}</b></span></header>
{_chaos(picture.chaos)}
<h2>Container groups</h2>{_groups(picture)}
<h2>Nodes</h2>{_nodes(picture)}
<h2>Queue</h2><div class="jobs">{shown or '<p class="soft">none</p>'}</div>{more}
</main><script>{SCRIPT}</script></body></html>"""


def _chaos(entries: dict[str, Any]) -> str:
    if not entries:
        return ""
    said = "; ".join(f"{name} {json.dumps(entry)}" for name, entry in entries.items())
    return f'<p class="warning">Set to go wrong: {escape(said)}</p>'


def _groups(picture: Picture) -> str:
    rows = []
    for group in picture.groups:
        body = json.loads(group["body"])
        gpus = body["container"]["resources"].get("gpu_classes") or []
        names = ", ".join(gpu["name"] for gpu in GPU_CLASSES if gpu["id"] in gpus)
        running = sum(
            one["group_id"] == group["id"] and one["state"] == "running" for one in picture.instances
        )
        state = "being deleted" if group["deleting"] else "started" if group["started"] else "stopped"
        price = dollars_an_hour(gpus, body["priority"])
        rows.append(
            (
                group["name"],
                state,
                f"{running} of {group['replicas']}",
                f"{names} ({body['priority'] or 'high'})",
                f"${price:.3f}",
                f"${picture.dollars.get(group['id'], 0):.4f}",
            )
        )
    return _table(("name", "state", "running", "GPU (priority)", "an hour and replica", "so far"), rows)


def _nodes(picture: Picture) -> str:
    busy = {row["machine_id"]: row for row in picture.jobs if row["status"] == "running"}
    rows = []
    for node in picture.instances:
        job = busy.get(node["machine_id"])
        work = json.loads(job["body"])["environment"].get("FLUX_JOB") or job["id"][:8] if job else ""
        since = _duration(now() - node["state_since"])
        rows.append((node["id"][:8], node["state"], since, node["machine_id"][:8], work, node["pid"] or ""))
    return _table(("node", "state", "for", "machine", "job", "process"), rows)


def _table(head: tuple[str, ...], rows: list[tuple[Any, ...]]) -> str:
    titles = "".join(f"<th>{title}</th>" for title in head)
    lines = [
        "<tr>" + "".join(f'<td class="number">{escape(str(cell))}</td>' for cell in row) + "</tr>"
        for row in rows
    ]
    body = "".join(lines) or f'<tr><td class="soft" colspan="{len(head)}">none</td></tr>'
    return f"<table><tr>{titles}</tr>{body}</table>"


def _job(job: JobSight) -> str:
    told = [f"run {job.run}" if job.run else f"job {job.id}"]
    told += [f"failures {job.failures}"] if job.failures else []
    told += [f"machine {job.machine[:8]}"] if job.status == "running" else []
    images = "".join(
        f'<img src="/samples/{escape(job.id)}/{escape(name)}" alt="sample {escape(name)}" loading="lazy">'
        for name in job.samples
    )
    return (
        f'<article class="job" id="{escape(job.id)}"><h3>{escape(job.name)}'
        f'<span class="state {escape(job.status)}">{escape(job.status)}</span></h3>'
        f'<div class="soft">{escape(", ".join(told))}</div>{_progress(job)}{_curve(job.losses)}'
        f'<div class="samples">{images}</div></article>'
    )


def _progress(job: JobSight) -> str:
    step, steps = job.progress.get("step"), job.progress.get("steps")
    if not isinstance(step, int) or not isinstance(steps, int) or not steps:
        return ""
    told = [str(job.progress.get("state", "")), f"step {step} of {steps}"]
    loss, eta = job.progress.get("loss_smoothed") or job.progress.get("loss"), job.progress.get("eta_seconds")
    told += [f"loss {loss:.4f}"] if isinstance(loss, int | float) else []
    told += (
        [f"{_duration(eta)} left"]
        if isinstance(eta, int | float) and eta > 0 and job.status == "running"
        else []
    )
    message = job.progress.get("message")
    told += [str(message)] if message else []
    return f'<progress max="{steps}" value="{step}"></progress><div class="number">{escape(", ".join(told))}</div>'


def _curve(losses: list[tuple[int, float]]) -> str:
    """The losses as a faint line, lowest at the bottom, and their running mean as a strong one."""
    if len(losses) < 2:
        return ""
    first, last = losses[0][0], losses[-1][0]
    each = [loss for _, loss in losses]
    low, high = min(each), max(each)
    width, height = max(last - first, 1), (high - low) or 1

    def line(values: list[float]) -> str:
        return " ".join(
            f"{(step - first) / width * 300:.1f},{2 + (high - value) / height * 56:.1f}"
            for (step, _), value in zip(losses, values, strict=True)
        )

    mean = [sum(each[max(0, at - 9) : at + 1]) / min(at + 1, 10) for at in range(len(each))]
    title = f"loss from {mean[0]:.4f} (step {first}) to {mean[-1]:.4f} (step {last})"
    return (
        f'<svg viewBox="0 0 300 60" preserveAspectRatio="none" role="img"><title>{title}</title>'
        f'<polyline class="each" points="{line(each)}"/><polyline points="{line(mean)}"/></svg>'
    )


def _duration(seconds: float) -> str:
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s" if minutes else f"{rest} s"
