"""Kelpie's scaling rule: how many replicas of the group run for how many queued jobs, down to none."""

from __future__ import annotations

from typing import Any

import pulumi
from pulumi.dynamic import CreateResult, DiffResult, ReadResult, Resource, UpdateResult

from components.container_group import other_owner
from components.provider import FluxProvider, Props, inputs_of, replace_on
from flux_training.clients.kelpie import Kelpie

INPUTS = ("home", "groupId", "groupName", "owner", "minReplicas", "maxReplicas", "idleThresholdSeconds")


class ScalingRuleProvider(FluxProvider):
    def diff(self, _id: str, olds: Props, news: Props) -> DiffResult:
        self.check_home(olds)
        return replace_on(("groupId",), olds, news)

    def create(self, props: Props) -> CreateResult:
        _put(self.connection.kelpie(), props)
        return CreateResult(props["groupId"], inputs_of(props, INPUTS))

    def read(self, id_: str, props: Props) -> ReadResult:
        self.check_home(props)
        rule = self.connection.kelpie().get_rule(props["groupId"])
        if rule is None:
            return ReadResult("", {})
        seen = inputs_of(props, INPUTS) | {
            "minReplicas": rule.min_replicas,
            "maxReplicas": rule.max_replicas,
            "idleThresholdSeconds": rule.idle_threshold_seconds,
        }
        return ReadResult(id_, seen, dict(seen))

    def update(self, _id: str, _olds: Props, news: Props) -> UpdateResult:
        _put(self.connection.kelpie(), news)
        return UpdateResult(inputs_of(news, INPUTS))

    def delete(self, _id: str, props: Props) -> None:
        self.check_home(props)
        # A rule of a state written before these were among its inputs is nobody else's.
        name, owner = props.get("groupName"), props.get("owner", "")
        group = self.connection.salad().get_group(name) if name else None
        # The stack that has adopted the group has its own rule under the same id.
        if group is None or group.id != props["groupId"] or not other_owner(group, owner):
            self.connection.kelpie().delete_rule(props["groupId"])


def _put(kelpie: Kelpie, props: Props) -> None:
    kelpie.put_rule(
        props["groupId"],
        int(props["minReplicas"]),
        int(props["maxReplicas"]),
        int(props["idleThresholdSeconds"]),
    )


class ScalingRule(Resource, module="flux", name="ScalingRule"):
    """One a container group, keyed by its id."""

    def __init__(self, name: str, props: dict[str, Any], opts: pulumi.ResourceOptions | None = None) -> None:
        super().__init__(ScalingRuleProvider(), name, props, opts)
