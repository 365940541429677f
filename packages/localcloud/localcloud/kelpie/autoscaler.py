"""Kelpie's autoscaler: every few minutes, each scaling rule is applied to its container group, by the group's name."""

from __future__ import annotations

import asyncio
import logging
from typing import Any, Protocol

from localcloud.kelpie.jobs import Jobs
from localcloud.kelpie.rules import Rules

log = logging.getLogger(__name__)


class GroupControl(Protocol):
    """What the autoscaler does with SaladCloud, which it knows by name only."""

    def status_of(self, name: str) -> str | None:
        """The group's status, None when there is no group of that name."""

    def start(self, name: str) -> None:
        """Start it."""

    def stop(self, name: str) -> None:
        """Stop it."""

    def set_replicas(self, name: str, replicas: int) -> None:
        """Change the number of replicas. Raises Exception when SaladCloud refuses."""


async def run_autoscaler(
    jobs: Jobs, rules: Rules, groups: GroupControl, period: float, invited: bool = True
) -> None:
    """Apply all rules, wait `period` seconds, and so on for ever.

    Not `invited` to the organization, Kelpie can change nothing there: rules are kept and do nothing (UPSTREAM.md).
    """
    while True:
        for rule in rules.all() if invited else ():
            try:
                apply_rule(rule, jobs, rules, groups)
            except Exception:
                # Kelpie logs what SaladCloud refuses and goes on with the next rule.
                log.exception("scaling rule %s", rule["container_group_id"])
        await asyncio.sleep(max(period, 0.02))


def apply_rule(rule: dict[str, Any], jobs: Jobs, rules: Rules, groups: GroupControl) -> None:
    """Set the replicas to the active jobs within the rule's bounds, and start or stop the group.

    As Kelpie does it: a group to be scaled to 0 is stopped when it is `running`, never set to 0 replicas; one that is
    still deploying is left for the next cycle. A rule whose group's name is gone is deleted.
    """
    group_id, name = rule["container_group_id"], rule["container_group_name"]
    count = jobs.count_active(group_id, rule["idle_threshold_seconds"], rule["max_replicas"])
    replicas = min(rule["max_replicas"], max(rule["min_replicas"], count))
    status = groups.status_of(name)
    if status is None:
        log.info("container group %s is gone, its scaling rule goes too", name)
        rules.delete(group_id)
        return
    if replicas == 0:
        if status == "running":
            groups.stop(name)
        return
    if status == "stopped":
        groups.start(name)
    groups.set_replicas(name, replicas)
