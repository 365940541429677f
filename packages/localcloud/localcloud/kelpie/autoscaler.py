"""Kelpie's autoscaler: periodically applies each scaling rule to its container group, which it identifies by name."""

import asyncio
import logging
from typing import Any

from localcloud.kelpie.jobs import JobTable
from localcloud.kelpie.rules import RuleTable
from localcloud.salad.groups import GroupTable

log = logging.getLogger(__name__)


async def run_autoscaler(
    jobs: JobTable, rules: RuleTable, groups: GroupTable, period: float, *, invited: bool
) -> None:
    """Apply all rules every `period` seconds. Unless Kelpie's user was `invited` to the organization, rules do nothing."""
    while True:
        for rule in rules.all() if invited else ():
            try:
                apply_rule(rule, jobs, rules, groups)
            except Exception:
                # Like Kelpie, log an error from SaladCloud and continue with the next scaling rule.
                log.exception("scaling rule %s", rule["container_group_id"])
        await asyncio.sleep(max(period, 0.02))


def apply_rule(rule: dict[str, Any], jobs: JobTable, rules: RuleTable, groups: GroupTable) -> None:
    """Set the replicas to the number of active jobs, within the rule's bounds, and start or stop the group.

    Like Kelpie: to scale to 0, a `running` group is stopped, and one that is still deploying is left alone until the next cycle;
    replicas are never set to 0. A rule whose group is gone is deleted.
    """
    group_id, name = rule["container_group_id"], rule["container_group_name"]
    count = jobs.count_active(group_id, rule["idle_threshold_seconds"], rule["max_replicas"])
    replicas = min(rule["max_replicas"], max(rule["min_replicas"], count))
    status = groups.status_of(name)
    if status is None:
        log.info("container group %s is gone; its scaling rule is deleted", name)
        rules.delete(group_id)
        return
    if replicas == 0:
        if status == "running":
            groups.stop(name)
        return
    if status == "stopped":
        groups.start(name)
    groups.patch(name, {"replicas": replicas})
