"""Which objects the bucket itself deletes, and when: checkpoints and images, never results.

A lifecycle rule knows only how a key begins, so each run has rules of its own: `runs/cat/<run id>/output/cat_` is how the keys of
its checkpoints begin, and those of samples, progress, loss and weights do not.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from flux_training.training.runs.run import Layout
from flux_training.training.settings import KeepSettings

Rule = Mapping[str, Any]
# Two rules each. S3 and R2 take 1000 in a bucket: the rest is room for those of others.
MOST_RUNS = 400
ABORT_DAYS = 7


def expiring(keep: KeepSettings, layout: Layout, runs: Iterable[tuple[str, str]]) -> dict[str, int]:
    """How keys begin that expire → days. `runs` are (job, run id), the most important first; those beyond MOST_RUNS are left out."""
    rules: dict[str, int] = {}
    if keep.datasets_days is not None:
        rules[layout.datasets] = keep.datasets_days
    if keep.checkpoints_days is not None:
        for job, run in list(dict.fromkeys(runs))[:MOST_RUNS]:
            output = layout.run(job, run).output
            rules[f"{output}{job}_"] = keep.checkpoints_days
            rules[f"{output}optimizer.pt"] = keep.checkpoints_days
    return rules


def with_our_rules(present: Sequence[Rule], owner: str, wanted: Mapping[str, int]) -> list[Rule]:
    """A bucket's rules with ours in it: those of others stay as they are. Never empty, since R2 takes no empty list."""
    rules: list[Rule] = [rule for rule in present if not _is_ours(rule, owner)]
    for prefix, days in sorted(wanted.items()):
        rules.append(
            {
                "ID": f"{_mark(owner)}{hashlib.sha256(prefix.encode()).hexdigest()[:16]}",
                "Status": "Enabled",
                "Filter": {"Prefix": prefix},
                "Expiration": {"Days": days},
            }
        )
    return rules or [
        {
            "ID": "unfinished uploads",
            "Status": "Enabled",
            "Filter": {"Prefix": ""},
            "AbortIncompleteMultipartUpload": {"DaysAfterInitiation": ABORT_DAYS},
        }
    ]


def our_rules(present: Sequence[Rule], owner: str) -> dict[str, int]:
    """What `with_our_rules` put into a bucket's rules: how keys begin → days."""
    return {
        str(rule.get("Filter", {}).get("Prefix", "")): int(rule.get("Expiration", {}).get("Days", 0))
        for rule in present
        if _is_ours(rule, owner) and rule.get("Status") == "Enabled"
    }


def _is_ours(rule: Rule, owner: str) -> bool:
    return str(rule.get("ID", "")).startswith(_mark(owner))


def _mark(owner: str) -> str:
    return f"flux {owner} "
