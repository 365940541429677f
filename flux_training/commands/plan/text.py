"""A plan as plain lines, for a terminal or a log."""

from collections.abc import Iterable

from flux_training.training.bill import explain_lines
from flux_training.training.finding import FindingGroup, group_findings
from flux_training.training.runs.plan import JobPlan, Plan, PlannedAction, Upload, plan_headline
from flux_training.training.runs.variants import Variants
from flux_training.training.stack_bill import describe_stack_bill
from flux_training.training.train_yml.diff import settings_by_job
from flux_training.training.words import counted


def plan_as_text(plan: Plan, explain: bool = False) -> str:
    """The whole plan; or only the problems, if `up` would be refused. `explain`: with the parts of each estimate."""
    parts = [
        _problem_lines(plan),
        f"Plan for {plan.stack}: {plan_headline(plan)}" if not plan.problems else "",
    ]
    parts += [*(f"Error: {text}." for text in plan.alarms), *(f"Warning: {text}." for text in plan.warnings)]
    moved = [job for job in plan.of(PlannedAction.RUNNING) if job.reasons]
    parts += [_jobs([*plan.changed, *moved], plan.variants), model_lines(plan), describe_upload(plan.upload)]
    parts.append("\n".join(f"The {line}." for line in plan.cluster))
    parts += [describe_stack_bill(plan.bill, plan.local) if plan.bill else ""]
    parts += [explain_lines(plan.bill.lines) if plan.bill and explain else "", _lint_lines(plan)]
    return "\n\n".join(part for part in parts if part)


def _problem_lines(plan: Plan) -> str:
    if not plan.problems:
        return ""
    lines = ["  " + text.replace("\n", "\n  ") for text in plan.problems]
    return "\n".join([f"`up` would be refused for stack {plan.stack} and would change nothing:", *lines])


def _jobs(jobs: Iterable[JobPlan], variants: Iterable[Variants]) -> str:
    differing: dict[str, str] = {}
    for one in variants:
        differing |= settings_by_job(one.jobs, one.settings)

    def why(job: JobPlan) -> str:
        settings = differing.get(job.name)
        return "; ".join(job.reasons) + (f", with {settings}" if settings else "")

    rows = [(job.what.value, job.name, why(job)) for job in jobs]
    widths = [max((len(row[column]) for row in rows), default=0) for column in range(2)]
    return "\n".join(f"  {what:<{widths[0]}}  {name:<{widths[1]}}  {why}" for what, name, why in rows)


def model_lines(plan: Plan) -> str:
    """`Model: FLUX.1-dev (FLUX Non-Commercial License).`; empty if nothing is trained."""
    return "\n".join(f"Model: {words}." for words in plan.models)


def describe_upload(upload: Upload) -> str:
    """`Upload: 12 images, 3.4 MB; 5 images copied inside the bucket.`; empty if there is nothing to upload."""
    parts = [f"{counted(upload.images, 'image')}, {format_megabytes(upload.bytes)}"] if upload.images else []
    parts += [f"{counted(upload.copied, 'image')} copied inside the bucket"] if upload.copied else []
    return f"Upload: {'; '.join(parts)}." if parts else ""


def format_megabytes(size: int) -> str:
    """`3.4 MB`; with more digits for less than 0.1 MB."""
    return f"{size / 1e6:,.1f} MB" if size >= 100_000 else f"{size / 1e6:.4f} MB"


def _lint_lines(plan: Plan) -> str:
    groups = lint_findings_not_among_problems(plan)
    lines = [f"  {group.severity}: {group}" for group in groups]
    return "\n".join(["Lint findings:", *lines]) if lines else ""


def lint_findings_not_among_problems(plan: Plan) -> list[FindingGroup]:
    """What lint found, without the errors that are already among the plan's problems."""
    groups = group_findings(plan.lint.findings, plan.stack) if plan.lint else []
    return [group for group in groups if str(group) not in plan.problems]
