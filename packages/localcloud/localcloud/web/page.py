"""The web page at `/`: container groups, nodes, the queue with each job's loss and samples, and what it would have cost.

Its Content-Security-Policy allows requests to this server and its own script only.
"""

import json
import sqlite3
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from localcloud.database import CloudDatabase, now
from localcloud.salad.catalog import GPU_CLASSES, dollars_an_hour
from localcloud.web.job_outputs import read_outputs

if TYPE_CHECKING:
    from jinja2 import Template

POLICY = (
    "default-src 'none'; img-src 'self' data:; style-src 'unsafe-inline'; script-src 'nonce-{nonce}'; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
MAX_JOBS = 40
STATUSES = ("running", "pending", "completed", "failed", "canceled")


@dataclass(frozen=True)
class PageData:
    """The content of the database at one moment."""

    groups: list[sqlite3.Row]
    instances: list[sqlite3.Row]
    jobs: list[sqlite3.Row]
    counts: dict[str, int]
    dollars: dict[str, float]  # by group id, including deleted groups
    chaos: dict[str, Any]


def read_page_data(database: CloudDatabase, chaos: dict[str, Any]) -> PageData:
    """Read the database, in the thread that owns the connection. `chaos` holds the active faults."""
    dollars = "SUM((billed_until - running_from) * dollars_an_hour / 3600)"
    cost = f"SELECT group_id, {dollars} FROM billing GROUP BY 1"  # noqa: S608 (a constant)
    order = "status NOT IN ('running', 'pending'), created DESC, rowid DESC"
    newest = f"SELECT * FROM jobs ORDER BY {order} LIMIT ?"  # noqa: S608 (a constant)
    return PageData(
        database.all("SELECT * FROM groups ORDER BY created"),
        database.all("SELECT * FROM instances ORDER BY created"),
        database.all(newest, MAX_JOBS),
        dict(database.execute("SELECT status, COUNT(*) FROM jobs GROUP BY status").fetchall()),
        {str(group): float(dollars) for group, dollars in database.execute(cost)},
        chaos,
    )


def page_headers(nonce: str) -> dict[str, str]:
    """What keeps a page or a sample, which jobs wrote parts of, from acting on this machine. `nonce`: that of the page's script."""
    return {
        "Content-Security-Policy": POLICY.format(nonce=nonce),
        "X-Content-Type-Options": "nosniff",
        "Referrer-Policy": "no-referrer",
        "Cross-Origin-Resource-Policy": "same-origin",
    }


def render_page(data: PageData, objects: Path, nonce: str) -> str:
    """Render the page. Reads job outputs below `objects`, the folder of the buckets."""
    return _template().render(
        nonce=nonce,
        counts=", ".join(f"{data.counts[one]} {one}" for one in STATUSES if one in data.counts),
        dollars=sum(data.dollars.values()),
        faults="; ".join(f"{name} {json.dumps(entry)}" for name, entry in data.chaos.items()),
        groups=[_group_cells(data, group) for group in data.groups],
        nodes=[_node_cells(data, node) for node in data.instances],
        jobs=[_job(row, objects) for row in data.jobs],
        more=sum(data.counts.values()) - len(data.jobs),
    )


@cache
def _template() -> "Template":
    # jinja2 is imported here so that the daemon starts faster; many users never open the page.
    from jinja2 import Environment, PackageLoader

    return Environment(loader=PackageLoader("localcloud", "web"), autoescape=True).get_template("page.html")


def _group_cells(data: PageData, group: sqlite3.Row) -> tuple[Any, ...]:
    body = json.loads(group["body"])
    gpus = body["container"]["resources"].get("gpu_classes") or []
    names = ", ".join(gpu["name"] for gpu in GPU_CLASSES if gpu["id"] in gpus)
    running = sum(one["group_id"] == group["id"] and one["state"] == "running" for one in data.instances)
    return (
        group["name"],
        "being deleted" if group["deleting"] else "started" if group["started"] else "stopped",
        f"{running} of {group['replicas']}",
        f"{names} ({body['priority'] or 'high'})",
        f"${dollars_an_hour(gpus, body['priority']):.3f}",
        f"${data.dollars.get(group['id'], 0):.4f}",
    )


def _node_cells(data: PageData, node: sqlite3.Row) -> tuple[Any, ...]:
    jobs = {row["machine_id"]: row for row in data.jobs if row["status"] == "running"}
    job = jobs.get(node["machine_id"])
    work = json.loads(job["body"])["environment"].get("FLUX_JOB") or job["id"][:8] if job else ""
    since = _duration_text(now() - node["state_since"])
    return (node["id"][:8], node["state"], since, node["machine_id"][:8], work, node["pid"] or "")


def _job(row: sqlite3.Row, objects: Path) -> dict[str, Any]:
    body = json.loads(row["body"])
    environment, outputs = body["environment"], read_outputs(body, objects)
    details = [f"run {environment['FLUX_RUN_ID']}" if "FLUX_RUN_ID" in environment else f"job {row['id']}"]
    details += [f"failures {row['num_failures']} of {row['max_failures']}"] if row["num_failures"] else []
    details += [f"machine {row['machine_id'][:8]}"] if row["status"] == "running" else []
    return {
        "id": row["id"],
        "status": row["status"],
        "name": environment.get("FLUX_JOB") or body["command"],
        "details": ", ".join(details),
        "progress": describe_progress(outputs.progress, row["status"]),
        "curve": _curve(outputs.losses),
        "samples": outputs.samples,
    }


def describe_progress(progress: dict[str, Any], status: str) -> dict[str, Any] | None:
    """The bar and the words of a job's card; None before its first step is known."""
    step, steps = progress.get("step"), progress.get("steps")
    if not isinstance(step, int) or not isinstance(steps, int) or not steps:
        return None
    # A node that was stopped leaves its last report: the state in it is of no use then.
    parts = [str(progress["state"])] if status == "running" and progress.get("state") else []
    parts.append(f"step {step} of {steps}")
    loss, mean_of, eta = (progress.get(key) for key in ("loss_smoothed", "loss_steps", "eta_seconds"))
    if isinstance(loss, int | float):
        name = f"loss (mean of {mean_of} steps)" if isinstance(mean_of, int) else "loss"
        parts.append(f"{name} {loss:.4f}")
    if isinstance(eta, int | float) and eta > 0 and status == "running":
        parts.append(f"{_duration_text(eta)} left")
    if progress.get("message"):
        parts.append(str(progress["message"]))
    return {"step": step, "steps": steps, "text": ", ".join(parts)}


def _curve(losses: list[tuple[int, float]]) -> dict[str, str] | None:
    """Two SVG polylines: the losses, and their running mean over ten points."""
    if len(losses) < 2:
        return None
    first, last = losses[0][0], losses[-1][0]
    values = [loss for _, loss in losses]
    low, high = min(values), max(values)
    width, height = max(last - first, 1), (high - low) or 1

    def points(heights: list[float]) -> str:
        return " ".join(
            f"{(step - first) / width * 300:.1f},{2 + (high - value) / height * 56:.1f}"
            for (step, _), value in zip(losses, heights, strict=True)
        )

    mean = [sum(values[max(0, at - 9) : at + 1]) / min(at + 1, 10) for at in range(len(values))]
    title = f"loss of steps {first} to {last}: each step, and the mean of ten points"
    return {"title": title, "losses": points(values), "mean": points(mean)}


def _duration_text(seconds: float) -> str:
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s" if minutes else f"{rest} s"
