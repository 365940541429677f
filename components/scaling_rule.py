"""Kelpie's scaling rule: how many replicas of the container group run for how many queued jobs, down to zero."""

from dataclasses import dataclass, replace

from components.container_group import other_owner
from components.properties import Properties
from components.provider import FluxProvider, FluxResource


@dataclass(frozen=True, kw_only=True)
class ScalingRuleArgs(Properties):
    """`group_name` and `owner` show whether another stack has adopted the group. States of older versions lack them."""

    group_id: str
    group_name: str = ""
    owner: str = ""
    min_replicas: int
    max_replicas: int
    idle_threshold_seconds: int


class ScalingRuleProvider(FluxProvider[ScalingRuleArgs, ScalingRuleArgs]):
    args_class = state_class = ScalingRuleArgs
    replaced_by = ("group_id",)

    def create_or_adopt(self, args: ScalingRuleArgs) -> tuple[str, ScalingRuleArgs]:
        self._put(args)
        return args.group_id, args

    def find(self, _id: str, state: ScalingRuleArgs) -> ScalingRuleArgs | None:
        rule = self.connection.kelpie().get_rule(state.group_id)
        if rule is None:
            return None
        return replace(
            state,
            min_replicas=rule.min_replicas,
            max_replicas=rule.max_replicas,
            idle_threshold_seconds=rule.idle_threshold_seconds,
        )

    def change(self, _id: str, _old: ScalingRuleArgs, new: ScalingRuleArgs) -> ScalingRuleArgs:
        self._put(new)
        return new

    def remove(self, _id: str, state: ScalingRuleArgs) -> None:
        group = self.connection.salad().get_group(state.group_name) if state.group_name else None
        # A stack that has adopted the group has its own scaling rule under the same id, which must stay.
        if group is None or group.id != state.group_id or not other_owner(group, state.owner):
            self.connection.kelpie().delete_rule(state.group_id)

    def _put(self, args: ScalingRuleArgs) -> None:
        self.connection.kelpie().put_rule(
            args.group_id, args.min_replicas, args.max_replicas, args.idle_threshold_seconds
        )


class ScalingRule(FluxResource[ScalingRuleArgs], module="flux", name="ScalingRule"):
    """One per container group, identified by the group's id."""

    provider_class = ScalingRuleProvider
