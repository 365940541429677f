"""The SaladCloud container group: the replicas that train.

With a scaling rule its replicas and whether it runs are Kelpie's (UPSTREAM.md), so they are neither sent nor drift.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import pulumi
from pulumi.dynamic import CreateResult, DiffResult, ReadResult, Resource, UpdateResult
from pydantic import SecretStr

from components.messages import inform
from components.node_environment import (
    KEY_VARIABLES,
    KEYS_END_VARIABLE,
    fingerprint,
    given_keys,
    issued_keys,
    node_environment,
    secret_values,
)
from components.provider import FluxProvider, Props, inputs_of, replace_on
from flux_training.clients.errors import Conflict, UncertainOutcome
from flux_training.clients.salad import GIB, ContainerGroup, GroupSpec, Salad
from flux_training.training.errors import FluxError
from flux_training.training.settings import OWN_VARIABLES

INPUTS = (
    "home",
    "name",
    "image",
    "gpu",
    "priority",
    "cpu",
    "memory",
    "storage",
    "replicas",
    "autoscale",
    "variables",
    "credentials",
    "keys",
    "keysEnd",
    "tunnel",
    "owner",
    "adopt",
)
OWNER_VARIABLE = "FLUX_OWNER"
# In the environment of a group that was there before: `destroy` leaves it standing.
ADOPTED_VARIABLE = "FLUX_ADOPTED"
MB_PER_GB = 1024


class ContainerGroupProvider(FluxProvider):
    def diff(self, _id: str, olds: Props, news: Props) -> DiffResult:
        self.check_home(olds)
        # PATCH has no `name` (UPSTREAM.md). The restart policy is constant here; the autostart policy counts when a group is made.
        return replace_on(("name",), olds, news)

    def create(self, props: Props) -> CreateResult:
        salad = self.connection.salad()
        spec = self.spec(props, salad)
        group = salad.get_group(spec.name)
        if group is None:
            group = _create(salad, spec)
        if is_foreign(group, props["owner"]):
            if not props["adopt"]:
                raise not_ours(group, props["owner"])
            spec = as_adopted(spec)
        group = bring_in_line(salad, group, spec, autoscale=bool(props["autoscale"]))
        return CreateResult(group.id, _outputs(props, group))

    def read(self, id_: str, props: Props) -> ReadResult:
        self.check_home(props)
        group = self.connection.salad().get_group(props["name"])
        # A group of the same name made anew is another group: the jobs queued for the old id never run there.
        if group is None or group.id != id_ or other_owner(group, props["owner"]):
            return ReadResult("", {})
        return ReadResult(id_, _outputs(props, group) | seen_inputs(props, group), seen_inputs(props, group))

    def update(self, id_: str, _olds: Props, news: Props) -> UpdateResult:
        salad = self.connection.salad()
        group = salad.get_group(news["name"])
        if group is None or group.id != id_:
            raise FluxError(
                f"container group {news['name']} is gone or was made anew by somebody else",
                "",
                "run `make refresh`",
            )
        spec = self.spec(news, salad)
        group = bring_in_line(salad, group, spec, autoscale=bool(news["autoscale"]))
        return UpdateResult(_outputs(news, group))

    def delete(self, id_: str, props: Props) -> None:
        self.check_home(props)
        salad = self.connection.salad()
        group = salad.get_group(props["name"])
        there = group is not None and group.id == id_
        if group is not None and there and (other := other_owner(group, props["owner"])):
            inform(f"container group {group.name} stays as it is: {other} has adopted it")
            return
        # Kelpie's rule acts on groups by name: left behind, it would scale the next group of this one's name (UPSTREAM.md).
        self.connection.kelpie().delete_rule(id_)
        if group is None or not there:
            return
        if is_foreign(group, props["owner"]):
            # Released already, by an attempt that was killed or by the stack that adopted it last.
            inform(f"container group {group.name} stays: it does not carry this stack's mark any more")
        elif group.environment_value(ADOPTED_VARIABLE):
            release(salad, group, props["variables"].split(", "))
        else:
            salad.delete_group(props["name"])

    def spec(self, props: Props, salad: Salad) -> GroupSpec:
        """What is asked of SaladCloud. Raises BadInput when it offers no such GPU."""
        return group_spec(props, salad, self.environment(props))

    def environment(self, props: Props) -> dict[str, str | SecretStr]:
        """What its containers are told besides whose they are."""
        return {
            **secret_values(self.cluster_environment),
            **node_environment(self.connection),
            **(issued_keys(props["keys"]) if props.get("keys") else given_keys(self.connection)),
            **({KEYS_END_VARIABLE: props["keysEnd"]} if props.get("keysEnd") else {}),
        }


def group_spec(props: Props, salad: Salad, environment: Mapping[str, str | SecretStr]) -> GroupSpec:
    """The stack's settings and our mark, as SaladCloud's fields."""
    return GroupSpec(
        name=props["name"],
        display_name=props["name"],
        image=props["image"],
        cpu=int(props["cpu"]),
        memory=int(props["memory"]) * MB_PER_GB,
        storage=int(props["storage"]) * GIB,
        gpu_classes=[salad.gpu_class_id(props["gpu"])],
        priority=props["priority"],
        replicas=int(props["replicas"]),
        # Kelpie starts the group of a scaling rule. Any other starts by itself once SaladCloud has prepared its image.
        autostart=not props["autoscale"] and int(props["replicas"]) > 0,
        environment={**environment, OWNER_VARIABLE: props["owner"]},
    )


def bring_in_line(salad: Salad, group: ContainerGroup, spec: GroupSpec, autoscale: bool) -> ContainerGroup:
    """Change what differs and nothing else: an environment sent again would restart every replica."""
    if group.environment_value(ADOPTED_VARIABLE):
        spec = as_adopted(spec)
    before = spec_of(group, spec)
    wanted = spec.model_copy(update={"replicas": group.replicas}) if autoscale else spec
    patch = wanted.patch_body(before)
    if patch:
        group = salad.patch_group(spec.name, patch, spec.secrets)
    if not autoscale and (spec.replicas > 0) != is_started(group):
        if spec.replicas == 0:
            salad.stop_group(spec.name)
        elif salad.prepared(group).current_state.status == "stopped":
            salad.start_group(spec.name)
    return group


def is_started(group: ContainerGroup) -> bool:
    """Whether it runs or will without being told: a new one is `pending` while its image is prepared, and may be `stopped` after that."""
    status = group.current_state.status
    return group.autostart_policy if status == "pending" else status != "stopped"


def spec_of(group: ContainerGroup, wanted: GroupSpec) -> GroupSpec:
    """The group as it is, in the fields that we set; what an answer leaves out counts as we want it."""
    resources = group.container.resources
    seen: dict[str, Any] = {
        "image": group.container.image,
        "cpu": resources.cpu,
        "memory": resources.memory,
        "storage": resources.storage_amount if resources.storage_amount is not None else wanted.storage,
        "gpu_classes": resources.gpu_classes,
        "priority": group.priority or wanted.priority,
        "replicas": group.replicas,
        "display_name": group.display_name or wanted.display_name,
        "environment": dict(group.container.environment_variables),
    }
    return wanted.model_copy(update=seen)


def seen_inputs(props: Props, group: ContainerGroup) -> Props:
    """The inputs as the group really has them, so that the next preview shows what drifted and why."""
    resources = group.container.resources
    untold = {
        OWNER_VARIABLE,
        ADOPTED_VARIABLE,
        KEYS_END_VARIABLE,
        *(KEY_VARIABLES if props.get("keys") else ()),
    }
    seen = inputs_of(props, INPUTS) | {
        "image": group.container.image,
        "cpu": resources.cpu,
        "memory": resources.memory // MB_PER_GB,
        "priority": group.priority or props["priority"],
        "owner": group.environment_value(OWNER_VARIABLE) or "",
        "credentials": fingerprint(
            {
                name: value.get_secret_value()
                for name, value in group.container.environment_variables.items()
                if name not in untold
            }
        ),
    }
    if props.get("keys"):
        seen["keys"] = keys_of(group)
    if resources.storage_amount is not None:
        seen["storage"] = resources.storage_amount // GIB
    if resources.gpu_classes != [props["gpuClass"]]:
        seen["gpu"] = ",".join(resources.gpu_classes)
    if not props["autoscale"]:
        seen["replicas"] = group.replicas if is_started(group) else 0
    return seen


def keys_of(group: ContainerGroup) -> dict[str, str]:
    """The bucket's keys that its containers have, as `issued_keys` takes them."""
    values = (group.environment_value(name) for name in KEY_VARIABLES)
    names = ("accessKeyId", "secretAccessKey", "sessionToken")
    return {name: value for name, value in zip(names, values, strict=True) if value}


def is_foreign(group: ContainerGroup, owner: str) -> bool:
    return group.environment_value(OWNER_VARIABLE) != owner


def other_owner(group: ContainerGroup, owner: str) -> str | None:
    """The other stack that the group belongs to; None when it is `owner`'s or nobody's."""
    marked = group.environment_value(OWNER_VARIABLE)
    return marked if marked and marked != owner else None


def as_adopted(spec: GroupSpec) -> GroupSpec:
    return spec.model_copy(update={"environment": {**spec.environment, ADOPTED_VARIABLE: "yes"}})


def release(salad: Salad, group: ContainerGroup, variables: Collection[str]) -> None:
    """Leave a group that was there before us standing: stopped, without our mark, keys and `variables`, which may be secret."""
    salad.stop_group(group.name)
    present = group.container.environment_variables
    gone = {name: None for name in present if name.startswith(OWN_VARIABLES) or name in variables}
    salad.patch_group(group.name, {"container": {"environment_variables": gone}}, tuple(present.values()))
    inform(
        f"container group {group.name} was there before this stack and stays: stopped, with this stack's image and without its environment"
    )


def _create(salad: Salad, spec: GroupSpec) -> ContainerGroup:
    try:
        return salad.create_group(spec)
    except (Conflict, UncertainOutcome):
        # Somebody was faster, or the answer got lost: what is there now decides.
        group = salad.get_group(spec.name)
        if group is None:
            raise
        return group


def _outputs(props: Props, group: ContainerGroup) -> Props:
    return {**inputs_of(props, INPUTS), "gpuClass": ",".join(group.container.resources.gpu_classes)}


def not_ours(group: ContainerGroup, owner: str) -> FluxError:
    other = group.environment_value(OWNER_VARIABLE)
    return FluxError(
        f"container group {group.name} exists already and "
        + (f"belongs to {other}" if other else "is not this project's"),
        f"{owner} must not change another one's group",
        "choose another cluster.name, delete that group, or set `adopt: true`",
    )


class TrainingGroup(Resource, module="flux", name="ContainerGroup"):
    """Its Pulumi id is SaladCloud's id of the group."""

    def __init__(self, name: str, props: dict[str, Any], opts: pulumi.ResourceOptions | None = None) -> None:
        secret = pulumi.ResourceOptions(additional_secret_outputs=["keys", "credentials"])
        options = pulumi.ResourceOptions.merge(opts, secret)
        super().__init__(ContainerGroupProvider(), name, {**props, "gpuClass": None}, options)
