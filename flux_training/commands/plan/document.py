"""A plan as JSON, for programs."""

import json
from dataclasses import asdict
from typing import Any

from flux_training.training.cost import Bill, StackBill
from flux_training.training.runs.plan import JobPlan, Plan

VERSION = 2


def plan_as_json(plan: Plan) -> str:
    """Dollars and seconds are numbers, null if not known. `version` is raised when a field changes its meaning."""
    lint = plan.lint
    content = {
        "version": VERSION,
        "stack": plan.stack,
        "problems": plan.problems,
        "alarms": plan.alarms,
        "warnings": plan.warnings,
        "jobs": {job.name: _job(job) for job in plan.jobs},
        "variants": [asdict(one) for one in plan.variants],
        "cluster": plan.cluster,
        "upload": asdict(plan.upload),
        "cost": _stack_cost(plan.bill) if plan.bill else None,
        "findings": [finding.as_json() for finding in lint.findings] if lint else [],
    }
    return json.dumps(content, indent=2, ensure_ascii=False)


def _job(job: JobPlan) -> dict[str, Any]:
    line = job.line
    return {
        "what": job.what.value,
        "runId": job.run_id or None,
        "previousRunId": job.previous or None,
        "reasons": job.reasons,
        "images": job.images,
        "imagesAdded": job.changes.added,
        "imagesRemoved": job.changes.removed,
        "imagesReplaced": job.changes.replaced,
        "captions": [asdict(edited) for edited in job.changes.captions],
        "usd": line.usd if line else None,
        "usdLow": line.cost.low if line and line.cost else None,
        "usdHigh": line.cost.high if line and line.cost else None,
        "seconds": line.seconds if line else None,
        "steps": line.steps if line else None,
        "parts": {part.name: asdict(part.seconds) for part in line.parts} if line else {},
    }


def _stack_cost(bill: StackBill) -> dict[str, Any]:
    """With several clusters, only the dollars are of all; the rest is in `clusters`."""
    if bill.only:
        return _cost(bill.only)
    single = dict.fromkeys(("gpu", "priority", "usdAnHour", "trouble"))
    clusters = {name: _cost(one) for name, one in bill.clusters.items()}
    dollars = {
        "usd": bill.usd,
        "usdLow": bill.cost.low if bill.cost else None,
        "usdHigh": bill.cost.high if bill.cost else None,
        "idleUsd": bill.idle_usd,
    }
    return {**dollars, **single, "clusters": clusters}


def _cost(bill: Bill) -> dict[str, Any]:
    return {
        "usd": bill.usd,
        "usdLow": bill.cost.low if bill.cost else None,
        "usdHigh": bill.cost.high if bill.cost else None,
        "idleUsd": bill.idle_usd,
        "gpu": bill.rate.gpu,
        "priority": bill.rate.priority,
        "usdAnHour": bill.rate.usd_an_hour,
        "trouble": bill.rate.trouble or None,
    }
