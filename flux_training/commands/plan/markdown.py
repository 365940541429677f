"""A plan as GitHub's Markdown: a summary, a table of jobs, and what changed in each of them.

Names and captions come from others: they are escaped, so that they cannot end a table cell, add HTML or mention anyone.
"""

import difflib
import html
import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import replace

from flux_training.commands.plan.pictures import SIDE, Pictures
from flux_training.commands.plan.text import describe_upload, lint_findings_not_among_problems, model_lines
from flux_training.training.bill import (
    FREE,
    bill_heading,
    bill_rows,
    describe_cost_without_work,
    show_dollar_range,
    show_dollars,
    show_hours,
    single_replica_note,
    sources_of_time_estimates,
)
from flux_training.training.cost import Bill
from flux_training.training.runs.changes import Edited
from flux_training.training.runs.plan import JobPlan, Plan, PlannedAction, plan_headline
from flux_training.training.runs.variants import Variants
from flux_training.training.words import counted, flux_command

# GitHub refuses comments of more than 65,536 characters, so comments are limited to less.
MAX_LENGTH = 60_000
MAX_PICTURES = 12
PICTURES_PER_ROW = 6
MAX_CAPTIONS = 20
MAX_DETAILED = 20
MAX_ROWS = 100
MAX_SETTINGS = 8
MAX_VALUE_LENGTH = 80
SPECIAL = re.compile(r"([\\`*_{}\[\]()#|~$])")


def plan_as_comment(plan: Plan, pictures: Pictures) -> str:
    """The plan as a comment on a pull request; without details if it would be too long."""
    whole = plan_as_markdown(plan, pictures)
    if len(whole) <= MAX_LENGTH:
        return whole
    short = plan_as_markdown(replace(plan, lint=None), pictures, detailed=0)
    command = flux_command("plan", plan.stack)
    return f"{short[:MAX_LENGTH]}\nShortened to fit into a comment: {command} shows what changed in each job, and what lint found.\n"


def comment_marker(stack: str) -> str:
    """The first line, by which a workflow finds the comment to update."""
    return f"<!-- flux-plan: {escape_markdown(stack)} -->"


def plan_as_markdown(plan: Plan, pictures: Pictures, detailed: int = MAX_DETAILED) -> str:
    """The plan, with what changed in the first `detailed` jobs."""
    parts = [comment_marker(plan.stack), f"## Training plan for `{_code(plan.stack)}`"]
    if plan.problems:
        parts.append("**`up` would be refused and would change nothing:**")
        parts += [f"```text\n{text.replace('```', '')}\n```" for text in plan.problems]
    else:
        parts += [f"**Error:** {escape_markdown(text)}." for text in plan.alarms]
        parts += [f"**Warning:** {escape_markdown(text)}." for text in plan.warnings]
        parts += [f"**{plan_headline(plan)}.** {_money(plan)}", _table(plan)]
        parts += [escape_markdown(model_lines(plan)), describe_upload(plan.upload)]
        parts += [_unchanged_jobs(plan), *map(_variants_table, plan.variants[:detailed])]
        parts += [*_job_details(plan.changed[:detailed], pictures), _cluster_lines(plan)]
    parts.append(_lint_findings(plan))
    return "\n\n".join(part for part in parts if part) + "\n"


def _money(plan: Plan) -> str:
    bill = plan.bill
    if bill is None:
        return ""
    each = bill.clusters.values()
    charge = escape_markdown(" ".join(filter(None, map(describe_cost_without_work, each))))
    if not bill.lines:
        return charge or "This costs nothing."
    note = "" if plan.local else next(filter(None, map(single_replica_note, each)), "")
    where = " and ".join(_cost_heading(name, one) for name, one in bill.clusters.items() if one.lines)
    heading = f"Estimated cost **{show_dollars(bill.usd)}**{_in_brackets(show_dollar_range(bill.cost))} on {escape_markdown(where)}."
    return " ".join(filter(None, [heading, charge, note]))


def _cost_heading(cluster: str, bill: Bill) -> str:
    return f"{cluster}: {bill_heading(bill)}" if cluster else bill_heading(bill)


def _table(plan: Plan) -> str:
    bill = plan.bill
    jobs = [*plan.changed, *(job for job in plan.of(PlannedAction.RUNNING) if job.line)]
    if not jobs:
        return ""
    lines = ["| | job | why | steps | time | cost |", "|---|---|---|---:|---:|---:|"]
    lines += [_row(job) for job in jobs[:MAX_ROWS]]
    if len(jobs) > MAX_ROWS:
        lines.append(f"| | | and {len(jobs) - MAX_ROWS} more | | | |")
    if bill is None or not bill.lines:
        return "\n".join(lines)
    for cluster, one in bill.clusters.items():
        of = f" of {cluster}" if cluster else ""
        idle = [row for row in bill_rows(one) if row[0] == "idle"]
        lines += [
            f"| | *idle{of}* | {escape_markdown(what)} | | {time} | {usd} |" for _, what, time, usd, _ in idle
        ]
        lines += _total(f"total{of}", bill_rows(one)[-1]) if one.lines else []
    if bill.only is None:
        lines += _total("all clusters", ("", "", "", show_dollars(bill.usd), show_dollar_range(bill.cost)))
    sources = list(
        dict.fromkeys(text for one in bill.clusters.values() for text in sources_of_time_estimates(one))
    )
    note = f"<sub>Times from {escape_markdown('; '.join(sources))}.{' ' + FREE if plan.local else ''}</sub>"
    return "\n".join(lines) + f"\n\n{note}"


def _total(title: str, row: tuple[str, str, str, str, str]) -> list[str]:
    return [
        f"| | **{title}** | | | {f'**{row[2]}**' if row[2] else ''} | **{row[3]}**{_in_brackets(row[4])} |"
    ]


def _row(job: JobPlan) -> str:
    line = job.line
    why = "; ".join(job.reasons) or "already queued"
    if job.what is PlannedAction.NEW:
        why = f"{why}, {counted(job.images, 'image')}"
    known = line is not None and line.seconds is not None
    figures = (
        f"{line.steps:,} | {show_hours(line.seconds or 0) if known else 'unknown'} | {show_dollars(line.usd)}{_in_brackets(show_dollar_range(line.cost))}"
        if line
        else " | | "
    )
    return f"| **{job.what}** | `{_code(job.name)}` | {escape_markdown(why)} | {figures} |"


def _in_brackets(text: str) -> str:
    return f" ({escape_markdown(text)})" if text else ""


def _unchanged_jobs(plan: Plan) -> str:
    kept = plan.of(PlannedAction.KEPT)
    names = ", ".join(f"`{_code(job.name)}`" for job in kept[:MAX_ROWS])
    return f"Unchanged: {names}{' …' if len(kept) > MAX_ROWS else ''}" if kept else ""


def _variants_table(variants: Variants) -> str:
    """The table of the settings that differ between jobs with the same images."""
    names = list(variants.settings)[:MAX_SETTINGS]
    lines = [
        f"### Jobs with the images of `{_code(variants.images_of)}`",
        "",
        f"| job | {' | '.join(map(escape_markdown, names))} |",
        "|---" * (len(names) + 1) + "|",
    ]
    for index, job in enumerate(variants.jobs[:MAX_ROWS]):
        values = [escape_markdown(_short(variants.settings[name][index])) for name in names]
        lines.append(f"| `{_code(job)}` | {' | '.join(values)} |")
    left_out = {"setting": len(variants.settings) - len(names), "job": len(variants.jobs) - MAX_ROWS}
    more = [counted(number, f"more {what}") for what, number in left_out.items() if number > 0]
    return "\n".join(lines) + (f"\n\nAnd {' and '.join(more)}." if more else "")


def _short(value: str) -> str:
    return value if len(value) <= MAX_VALUE_LENGTH else f"{value[:MAX_VALUE_LENGTH]} …"


def _job_details(jobs: Iterable[JobPlan], pictures: Pictures) -> list[str]:
    """The jobs with what changed in each. New jobs with the same images show them once."""
    found = []
    first_with: dict[tuple[str, tuple[str, ...]], str] = {}
    for job in jobs:
        is_new = job.what is PlannedAction.NEW
        first = first_with.setdefault((job.images_of, job.changes.added), job.name) if is_new else job.name
        images = _changed_images(job, pictures) if first == job.name else []
        parts = [_changed_captions(job, pictures), *images]
        if shown := [part for part in parts if part]:
            found.append("\n\n".join([f"### `{_code(job.name)}`", *shown]))
    return found


def _changed_captions(job: JobPlan, pictures: Pictures) -> str:
    edited = job.changes.captions
    if not edited:
        return ""
    lines = [f"{counted(len(edited), 'caption')} changed:", "", "| image | caption |", "|---|---|"]
    for one in edited[:MAX_CAPTIONS]:
        address = pictures.now(job, one.image)
        lines.append(f"| {_image_cell(one.image, address)} | {caption_difference(one)} |")
    if len(edited) > MAX_CAPTIONS:
        lines.append(f"| | and {len(edited) - MAX_CAPTIONS} more |")
    return "\n".join(lines)


def _changed_images(job: JobPlan, pictures: Pictures) -> list[str]:
    changed = job.changes
    added = _origin_of_images(job) if job.what is PlannedAction.NEW else "added"
    groups = [
        (added, changed.added, pictures.now),
        ("removed", changed.removed, pictures.before),
        ("replaced, before", changed.replaced, pictures.before),
        ("replaced, now", changed.replaced, pictures.now),
    ]
    found = []
    for words, names, address in groups:
        shown = [(name, address(job, name)) for name in names[:MAX_PICTURES]]
        found += [_row_of_pictures(words, shown, len(names))] if names else []
    renamed = [f"`{_code(old)}` → `{_code(new)}`" for old, new in changed.renamed[:MAX_PICTURES]]
    if renamed:
        found.append(f"{counted(len(changed.renamed), 'image')} renamed: {', '.join(renamed)}")
    return found


def _origin_of_images(job: JobPlan) -> str:
    """`of my-dog, sent once`: where the images of a new job are from, and whether they are uploaded."""
    return f"of `{_code(job.images_of)}`, {'sent once' if job.are_sent else 'already in the bucket'}"


def _row_of_pictures(words: str, shown: list[tuple[str, str | None]], number: int) -> str:
    rest = f" (first {len(shown)} shown)" if number > len(shown) else ""
    title = f"{counted(number, 'image')} {words}{rest}:"
    if not any(address for _, address in shown):
        return f"{title} {', '.join(_image_cell(name, None) for name, _ in shown)}"
    cells = [_image_cell(name, address) for name, address in shown]
    rows = [cells[first : first + PICTURES_PER_ROW] for first in range(0, len(cells), PICTURES_PER_ROW)]
    lines = [f"| {' | '.join(row)} |" for row in rows]
    return "\n".join([title, "", lines[0], "|---" * len(rows[0]) + "|", *lines[1:]])


def _image_cell(name: str, address: str | None) -> str:
    shown = f'<img src="{html.escape(address)}" width="{SIDE}" alt=""><br>' if address else ""
    return f"{shown}`{_code(name)}`"


def caption_difference(edited: Edited) -> str:
    """The caption with removed words struck out and added words underlined."""
    old, new = edited.before.split(), edited.after.split()
    pieces = []
    for op, i, j, k, m in difflib.SequenceMatcher(None, old, new, autojunk=False).get_opcodes():
        removed, added = escape_markdown(" ".join(old[i:j])), escape_markdown(" ".join(new[k:m]))
        if op == "equal":
            pieces.append(added)
            continue
        pieces += [f"<del>{removed}</del>"] if removed else []
        pieces += [f"<ins>{added}</ins>"] if added else []
    return " ".join(pieces)


def _cluster_lines(plan: Plan) -> str:
    return "\n".join(f"- The {escape_markdown(line)}." for line in plan.cluster)


def _lint_findings(plan: Plan) -> str:
    groups = lint_findings_not_among_problems(plan)
    counts = Counter(finding.severity for group in groups for finding in group.findings)
    title = ", ".join(counted(number, severity) for severity, number in counts.items())
    lines = [f"- **{group.severity}** {escape_markdown(str(group))}" for group in groups]
    summary = f"<details{' open' if counts['error'] else ''}><summary>Lint: {title}</summary>"
    return "\n".join([summary, "", *lines, "", "</details>"]) if lines else ""


def escape_markdown(text: str) -> str:
    """In one line, without Markdown, HTML or mentions."""
    plain = html.escape(" ".join(text.split()), quote=False)
    return SPECIAL.sub(r"\\\1", plain).replace("@", "@\N{ZERO WIDTH SPACE}")


def _code(text: str) -> str:
    """For use inside backticks, also in a table."""
    return " ".join(text.split()).replace("`", "'").replace("|", "\\|")
