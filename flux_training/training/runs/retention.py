"""Lifecycle rules: which checkpoints and images the bucket deletes, and when. Results are never deleted.

A lifecycle rule matches keys by prefix, so each run needs its own rules: `runs/cat/<run id>/output/cat_` matches its checkpoints, but
not its samples, progress, losses or weights.
"""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from flux_training.training.runs.run import Layout
from flux_training.training.settings import KeepSettings

Rule = Mapping[str, Any]
# Each run needs two lifecycle rules, and S3 and R2 allow 1000 per bucket. The remaining 200 are
# left for other rules.
MAX_RUNS = 400
ABORT_DAYS = 7


def expiring_prefixes(keep: KeepSettings, layout: Layout, runs: Iterable[tuple[str, str]]) -> dict[str, int]:
    """Key prefixes that expire → days. `runs` are (job, run id), most important first; those beyond MAX_RUNS are left out."""
    rules: dict[str, int] = {}
    if keep.datasets_days is not None:
        rules[layout.datasets] = keep.datasets_days
    if keep.checkpoints_days is not None:
        for job, run in list(dict.fromkeys(runs))[:MAX_RUNS]:
            output = layout.run(job, run).output
            rules[f"{output}{job}_"] = keep.checkpoints_days
            rules[f"{output}optimizer.pt"] = keep.checkpoints_days
    return rules


def replace_own_rules(present: Sequence[Rule], owner: str, wanted: Mapping[str, int]) -> list[Rule]:
    """The bucket's rules with ours replaced and all others unchanged. Never empty, because R2 refuses an empty list."""
    rules: list[Rule] = [rule for rule in present if not _is_own_rule(rule, owner)]
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


def own_rules(present: Sequence[Rule], owner: str) -> dict[str, int]:
    """The rules that `replace_own_rules` added: key prefix → days."""
    return {
        str(rule.get("Filter", {}).get("Prefix", "")): int(rule.get("Expiration", {}).get("Days", 0))
        for rule in present
        if _is_own_rule(rule, owner) and rule.get("Status") == "Enabled"
    }


def _is_own_rule(rule: Rule, owner: str) -> bool:
    return str(rule.get("ID", "")).startswith(_mark(owner))


def _mark(owner: str) -> str:
    return f"flux {owner} "
