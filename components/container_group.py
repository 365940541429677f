"""The SaladCloud container group: the replicas that train.

With a scaling rule, Kelpie starts and stops the group and sets its number of replicas (docs/services.md), so that number is
neither sent nor compared.
"""

import hashlib
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from typing import Any

import pulumi
from pydantic import SecretStr

from components.messages import inform, make_command_for
from components.properties import Properties, copy_shared_fields
from components.provider import FluxProvider, FluxResource
from flux_training.clients.connection import Connection
from flux_training.clients.errors import Conflict, UncertainOutcome
from flux_training.clients.salad import GIB, ContainerGroup, GroupSpec, Salad
from flux_training.training.cluster_settings import RESERVED_VARIABLES
from flux_training.training.dataset.manifest import canonical_json
from flux_training.training.errors import FluxError
from flux_training.training.gpu import gpu_names_in_setting
from flux_training.training.runs.run import OWNER_VARIABLE
from flux_training.training.settings import SINGLE_CLUSTER
from flux_training.training.words import describe_adopt_setting, describe_rename_back

# This variable marks a group that existed before the stack adopted it. `destroy` does not delete such a group.
ADOPTED_VARIABLE = "FLUX_ADOPTED"
# Default settings of the Kelpie worker, which `cluster.environment` can override (docs/decisions/0031-node.md). A worker asks
# for another machine after this many seconds without work, because Kelpie never gives a failed job to the same machine again.
WORKER_SETTINGS = {"MAX_TIME_WITH_NO_WORK_S": "300"}
# This variable has the name of the group's cluster. It is set only if the stack has several clusters.
CLUSTER_VARIABLE = "FLUX_CLUSTER"
# This variable has the expiry time of the keys issued for the nodes. Like the keys, it is not part of the environment's
# fingerprint.
KEYS_END_VARIABLE = "FLUX_KEYS_END"
# Maps the name of each issued key in the state of NodeKeys or AwsStorage to the environment variable that carries it.
KEY_VARIABLES = {
    "accessKeyId": "AWS_ACCESS_KEY_ID",
    "secretAccessKey": "AWS_SECRET_ACCESS_KEY",
    "sessionToken": "AWS_SESSION_TOKEN",
}
MB_PER_GB = 1024


@dataclass(frozen=True, kw_only=True)
class ContainerGroupArgs(Properties):
    """`variables` are the names of the user's environment variables and `credentials` is a fingerprint of their values.

    `cpu` in cores, `memory` and `storage` in GB. `keys` are the bucket's keys issued for the nodes, `keys_end` is when they end.
    `tunnel` is set only for a dev group, `cluster` only in a stack with several clusters.
    """

    name: str
    image: str
    gpu: str
    priority: str
    cpu: int
    memory: int
    storage: int
    replicas: int
    autoscale: bool
    variables: str
    credentials: str
    keys: Mapping[str, str] | None = None
    keys_end: str | None = None
    tunnel: str | None = None
    cluster: str | None = None
    owner: str
    adopt: bool


@dataclass(frozen=True, kw_only=True)
class ContainerGroupState(ContainerGroupArgs):
    """`gpu_class`: the ids of the group's GPU classes."""

    gpu_class: str = ""


class ContainerGroupProvider(FluxProvider[ContainerGroupArgs, ContainerGroupState]):
    args_class = ContainerGroupArgs
    state_class = ContainerGroupState
    # A changed name replaces the group, because SaladCloud's PATCH has no `name` (docs/services.md). The restart policy is a
    # constant, and the autostart policy only matters at creation.
    replaced_by = ("name",)

    def create_or_adopt(self, args: ContainerGroupArgs) -> tuple[str, ContainerGroupState]:
        salad = self.connection.salad()
        spec = self.spec(args, salad)
        group = salad.get_group(spec.name) or _create(salad, spec)
        if is_foreign(group, args.owner):
            if not args.adopt:
                raise foreign_group_error(group, args.owner)
            spec = marked_as_adopted(spec)
        group = apply_spec(salad, group, spec, autoscale=args.autoscale)
        return group.id, _state(args, group)

    def find(self, id_: str, state: ContainerGroupState) -> ContainerGroupState | None:
        group = self.connection.salad().get_group(state.name)
        # A new group may have reused the name. It has another id, and jobs queued for the old id never run in it.
        if group is None or group.id != id_ or other_owner(group, state.owner):
            return None
        return with_drift(state, group)

    def change(self, id_: str, _old: ContainerGroupState, new: ContainerGroupArgs) -> ContainerGroupState:
        salad = self.connection.salad()
        group = salad.get_group(new.name)
        if group is None or group.id != id_:
            raise FluxError(
                f"container group {new.name} was deleted or replaced outside this stack",
                "",
                f"run {make_command_for(new.owner, 'refresh')}",
            )
        return _state(new, apply_spec(salad, group, self.spec(new, salad), autoscale=new.autoscale))

    def remove(self, id_: str, state: ContainerGroupState) -> None:
        salad = self.connection.salad()
        group = salad.get_group(state.name)
        if group is not None and group.id != id_:
            group = None
        if group is not None and (other := other_owner(group, state.owner)):
            inform(f"container group {group.name} is not deleted: {other} has adopted it")
            return
        # Delete Kelpie's scaling rule even if the group is gone: a rule applies to any group with this name (docs/services.md),
        # so it would scale the next one.
        self.connection.kelpie().delete_rule(id_)
        if group is None:
            return
        if is_foreign(group, state.owner):
            # An earlier, interrupted `destroy` or the stack that adopted the group last has already released it.
            inform(f"container group {group.name} is not deleted: its owner mark no longer names this stack")
        elif group.environment_value(ADOPTED_VARIABLE):
            release_group(salad, group, state.variables.split(", "))
        else:
            salad.delete_group(state.name)

    def spec(self, args: ContainerGroupArgs, salad: Salad) -> GroupSpec:
        """The request to SaladCloud. Raises BadInput if it does not offer the GPU."""
        return group_spec(args, salad, self.environment(args))

    def environment(self, args: ContainerGroupArgs) -> dict[str, str | SecretStr]:
        """The variables of its containers, without the owner's mark."""
        return {
            **WORKER_SETTINGS,
            **secret_values(self.cluster_environments.get(args.cluster or SINGLE_CLUSTER, {})),
            **node_environment(self.connection),
            **(issued_keys(args.keys) if args.keys else configured_node_keys(self.connection)),
            **({KEYS_END_VARIABLE: args.keys_end} if args.keys_end else {}),
            **({CLUSTER_VARIABLE: args.cluster} if args.cluster else {}),
        }


def group_spec(
    args: ContainerGroupArgs, salad: Salad, environment: Mapping[str, str | SecretStr]
) -> GroupSpec:
    """The stack's settings and our mark, as SaladCloud's fields."""
    return GroupSpec(
        name=args.name,
        display_name=args.name,
        image=args.image,
        cpu=args.cpu,
        memory=args.memory * MB_PER_GB,
        storage=args.storage * GIB,
        gpu_classes=[salad.gpu_class_id(name) for name in gpu_names_in_setting(args.gpu)],
        priority=args.priority,
        replicas=args.replicas,
        # Kelpie starts a group that has a scaling rule. Any other group starts by itself once SaladCloud has prepared its
        # image.
        autostart=not args.autoscale and args.replicas > 0,
        environment={**environment, OWNER_VARIABLE: args.owner},
    )


def apply_spec(salad: Salad, group: ContainerGroup, spec: GroupSpec, autoscale: bool) -> ContainerGroup:
    """Send only the fields that differ: sending even an unchanged environment would restart every replica."""
    if group.environment_value(ADOPTED_VARIABLE):
        spec = marked_as_adopted(spec)
    before = actual_spec(group, spec)
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
    """Whether the group runs or will start by itself.

    A new group is `pending` while its image is prepared, and may be `stopped` after that.
    """
    status = group.current_state.status
    return group.autostart_policy if status == "pending" else status != "stopped"


def actual_spec(group: ContainerGroup, wanted: GroupSpec) -> GroupSpec:
    """The group's actual values of the fields that we set. Fields that are missing in the answer count as unchanged."""
    resources = group.container.resources
    # The order of GPU classes does not matter.
    same_classes = {*resources.gpu_classes} == {*wanted.gpu_classes}
    found: dict[str, Any] = {
        "image": group.container.image,
        "cpu": resources.cpu,
        "memory": resources.memory,
        "storage": resources.storage_amount if resources.storage_amount is not None else wanted.storage,
        "gpu_classes": wanted.gpu_classes if same_classes else resources.gpu_classes,
        "priority": group.priority or wanted.priority,
        "replicas": group.replicas,
        "display_name": group.display_name or wanted.display_name,
        "environment": dict(group.container.environment_variables),
    }
    return wanted.model_copy(update=found)


def with_drift(state: ContainerGroupState, group: ContainerGroup) -> ContainerGroupState:
    """The state with the group's actual properties, so that the next preview shows what drifted."""
    resources = group.container.resources
    found: dict[str, Any] = {
        "image": group.container.image,
        "cpu": resources.cpu,
        "memory": resources.memory // MB_PER_GB,
        "priority": group.priority or state.priority,
        "owner": group.environment_value(OWNER_VARIABLE) or "",
        "credentials": _environment_fingerprint(group, state),
        "gpu_class": _gpu_class(group),
    }
    if state.keys:
        found["keys"] = issued_keys_in_group(group)
    if resources.storage_amount is not None:
        found["storage"] = resources.storage_amount // GIB
    if {*resources.gpu_classes} != {*state.gpu_class.split(",")}:
        found["gpu"] = _gpu_class(group)
    if not state.autoscale:
        found["replicas"] = group.replicas if is_started(group) else 0
    return replace(state, **found)


def _environment_fingerprint(group: ContainerGroup, state: ContainerGroupState) -> str:
    """The fingerprint of the environment variables that components/pipeline.py fingerprints, without the issued keys, which are
    compared separately.
    """
    keys = KEY_VARIABLES.values() if state.keys else ()
    # Ignore the default worker settings: groups created by older versions lack them until their next change.
    settings = WORKER_SETTINGS.keys() - set(state.variables.split(", "))
    others = {OWNER_VARIABLE, ADOPTED_VARIABLE, KEYS_END_VARIABLE, CLUSTER_VARIABLE, *keys, *settings}
    variables = group.container.environment_variables.items()
    return fingerprint({name: value for name, value in variables if name not in others})


def issued_keys_in_group(group: ContainerGroup) -> dict[str, str]:
    """The issued bucket keys in the group's environment, in the form that `issued_keys` accepts."""
    found = {name: group.environment_value(variable) for name, variable in KEY_VARIABLES.items()}
    return {name: value for name, value in found.items() if value}


def is_foreign(group: ContainerGroup, owner: str) -> bool:
    return group.environment_value(OWNER_VARIABLE) != owner


def other_owner(group: ContainerGroup, owner: str) -> str | None:
    """The other stack that the group belongs to; None if it is `owner`'s or has no mark."""
    marked = group.environment_value(OWNER_VARIABLE)
    return marked if marked and marked != owner else None


def marked_as_adopted(spec: GroupSpec) -> GroupSpec:
    return spec.model_copy(update={"environment": {**spec.environment, ADOPTED_VARIABLE: "yes"}})


def release_group(salad: Salad, group: ContainerGroup, variables: Collection[str]) -> None:
    """Stop an adopted group instead of deleting it.

    Also removes our mark, the bucket keys and the user's `variables`, which may be secret.
    """
    salad.stop_group(group.name)
    present = group.container.environment_variables
    ours = {*variables, *WORKER_SETTINGS}
    gone = {name: None for name in present if name.startswith(RESERVED_VARIABLES) or name in ours}
    salad.patch_group(group.name, {"container": {"environment_variables": gone}}, tuple(present.values()))
    inform(
        f"container group {group.name} existed before this stack and is not deleted: it is stopped, and keeps this stack's image but not its environment"
    )


def _create(salad: Salad, spec: GroupSpec) -> ContainerGroup:
    try:
        return salad.create_group(spec)
    except (Conflict, UncertainOutcome):
        # Creation failed: either another update created the group first, or the answer was lost. Check what exists now.
        group = salad.get_group(spec.name)
        if group is None:
            raise
        return group


def _state(args: ContainerGroupArgs, group: ContainerGroup) -> ContainerGroupState:
    return copy_shared_fields(ContainerGroupState, args, gpu_class=_gpu_class(group))


def _gpu_class(group: ContainerGroup) -> str:
    return ",".join(group.container.resources.gpu_classes)


def foreign_group_error(group: ContainerGroup, owner: str) -> FluxError:
    other = group.environment_value(OWNER_VARIABLE)
    return FluxError(
        f"container group {group.name} exists already and "
        + (f"belongs to {other}" if other else "was not created by this project"),
        f"{owner} must not change a group that it does not own",
        f"choose another cluster.name, delete that group, or set {describe_adopt_setting(owner)}{describe_rename_back(owner, other)}",
    )


def other_cluster(group: ContainerGroup, cluster: str) -> str | None:
    """The cluster of this stack that the group belongs to, if it is another one than `cluster`; else None."""
    marked = group.environment_value(CLUSTER_VARIABLE) or SINGLE_CLUSTER
    return marked if marked != cluster else None


def node_environment(connection: Connection) -> dict[str, str | SecretStr]:
    """The Kelpie worker's variables without keys (docs/services.md). It authenticates to Kelpie with the node's own token, not a Salad key."""
    environment: dict[str, str | SecretStr] = {
        "AWS_REGION": connection.s3_region,
        # Newer S3 clients send checksums by default, and R2 refuses them.
        "AWS_REQUEST_CHECKSUM_CALCULATION": "WHEN_REQUIRED",
        # Kelpie's worker 0.6 reads the first of these variables, worker 0.7 the second.
        "SALAD_PROJECT": connection.project,
        "SALAD_PROJECT_NAME": connection.project,
    }
    if connection.s3_endpoint:
        environment["AWS_ENDPOINT_URL"] = connection.s3_endpoint
    return environment


def configured_node_keys(connection: Connection) -> dict[str, str | SecretStr]:
    """With storage.kind s3: the keys configured for the nodes, else those of the stack itself."""
    if connection.node_access_key_id and connection.node_secret_access_key:
        key_id, secret, session = connection.node_access_key_id, connection.node_secret_access_key, None
    else:
        key_id, secret = connection.s3_access_key_id, connection.s3_secret_access_key
        session = connection.s3_session_token
    values = (SecretStr(key_id), secret, session)
    return {
        name: value for name, value in zip(KEY_VARIABLES.values(), values, strict=True) if value is not None
    }


def issued_keys(keys: Mapping[str, str]) -> dict[str, str | SecretStr]:
    """Keys issued for the nodes, named as their resource stores them (accessKeyId, secretAccessKey, sessionToken)."""
    return {variable: SecretStr(keys[name]) for name, variable in KEY_VARIABLES.items() if keys.get(name)}


def secret_values(environment: Mapping[str, str]) -> dict[str, str | SecretStr]:
    """All of the user's environment variables as secrets, since any of them may be one."""
    return {name: SecretStr(value) for name, value in environment.items()}


def fingerprint(environment: Mapping[str, str | SecretStr]) -> str:
    """12 hex digits that change with the environment, so that a preview shows a changed key without the state containing it.

    The fingerprint itself must be stored as a secret, because it has no salt.
    """
    plain = {
        name: value.get_secret_value() if isinstance(value, SecretStr) else value
        for name, value in environment.items()
    }
    return hashlib.sha256(canonical_json(plain)).hexdigest()[:12]


class TrainingGroup(FluxResource[ContainerGroupArgs], module="flux", name="ContainerGroup"):
    """Its Pulumi id is the group's id at SaladCloud."""

    provider_class = ContainerGroupProvider

    def __init__(
        self, name: str, args: ContainerGroupArgs, opts: pulumi.ResourceOptions | None = None
    ) -> None:
        secret = pulumi.ResourceOptions(additional_secret_outputs=["keys", "credentials"])
        super().__init__(name, args, pulumi.ResourceOptions.merge(opts, secret))
