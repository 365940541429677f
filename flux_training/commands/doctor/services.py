"""Checks of the services: reachable, keys accepted, bucket usable, Kelpie able to start the group."""

import uuid
from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

from flux_training.clients.conditions import ignored_conditions
from flux_training.clients.connection import Connection
from flux_training.clients.errors import NotFound, ServiceError
from flux_training.clients.gpu_classes import GpuClass, find_gpu_class
from flux_training.clients.kelpie import Job, KelpieRule
from flux_training.clients.reachability import ServiceProbe, reachability_advice, require_usable_proxies
from flux_training.clients.salad import ContainerGroup, Salad
from flux_training.clients.stack.pricing import gpu_offer_of_class
from flux_training.clients.stack.services import StackServices
from flux_training.clients.storage import Storage
from flux_training.commands.doctor.result import CheckResult, bad, note, ok
from flux_training.commands.watch.job_status import (
    MAX_PENDING_SECONDS,
    StackJob,
    replaced_weights,
    seconds_since,
)
from flux_training.training.cluster_settings import ClusterSettings
from flux_training.training.gpu import choose_gpu, gpu_names_in_setting, is_gpu_name
from flux_training.training.gpu import memory_gb as memory_of
from flux_training.training.runs.node_rights import shared_keys_warning
from flux_training.training.runs.run import OWNER_VARIABLE, Layout
from flux_training.training.runs.run_state import RunState, show_duration
from flux_training.training.settings import StackSettings
from flux_training.training.words import counted, describe_adopt_setting, describe_rename_back

# The clock difference that is reported. S3 refuses requests if the clock is wrong by 15 minutes.
MIN_NOTED_SKEW_SECONDS, MIN_BAD_SKEW_SECONDS = 30.0, 300.0
# An id that no group has. Asking for it tests the key.
NO_GROUP = "00000000-0000-0000-0000-000000000000"


def check_proxies(urls: Iterable[str]) -> list[CheckResult]:
    """Results only for proxy variables that cannot be used. Raises BadInput for them."""
    require_usable_proxies(urls)
    return []


def check_reachable(title: str, probe: ServiceProbe) -> list[CheckResult]:
    """Any answer will do. Compares the service's clock with ours."""
    if probe.problem:
        return [
            bad(title, f"{probe.host} cannot be reached: {probe.problem}", reachability_advice(probe.problem))
        ]
    skew = check_clock(title, probe.date, probe.time) if probe.time else []
    return [ok(title, f"answers at {probe.host}"), *skew]


def check_clock(service: str, date: str | None, now: datetime) -> list[CheckResult]:
    """A result only if the service's Date header, which has whole seconds, is far from `now`."""
    try:
        theirs = parsedate_to_datetime(date or "")
    except ValueError:
        return []
    skew = (now - theirs.astimezone(UTC)).total_seconds()
    if abs(skew) < MIN_NOTED_SKEW_SECONDS:
        return []
    message = f"this machine is {show_duration(abs(skew))} {'ahead of' if skew > 0 else 'behind'} {service}"
    verdict = bad if abs(skew) >= MIN_BAD_SKEW_SECONDS else note
    return [verdict("Clock", message, "synchronise the clock over the network: `timedatectl set-ntp true`")]


def check_gpu(classes: list[GpuClass], cluster: ClusterSettings, memory_gb: int) -> list[CheckResult]:
    """`memory_gb`: GPU memory that the jobs need. Raises BadInput if no class fits `cluster.gpu`."""
    if not is_gpu_name(cluster.gpu):
        offers = [
            gpu_offer_of_class(gpu, cluster.priority) for gpu in classes if gpu.gpu_class_type == "community"
        ]
        # Ignore the jobs' hours here: the check only finds out whether any GPU class matches, and the price of the cheapest.
        offer = choose_gpu(cluster.gpu, memory_gb, offers, lambda _offer: 1.0, kept=None)
        price_now = f"{offer.name} at ${offer.usd_an_hour} an hour at priority {cluster.priority}"
        return [ok("GPU", f"`{cluster.gpu}` is available: {price_now}; `preview` shows which class is used")]
    return [
        check_gpu_class(classes, priority, name, memory_gb)
        for name in gpu_names_in_setting(cluster.gpu)
        for priority in cluster.priorities
    ]


def check_gpu_class(classes: list[GpuClass], priority: str, name: str, memory_gb: int) -> CheckResult:
    gpu = find_gpu_class(classes, name)
    price = gpu.price(priority)
    if price is None:
        offered = ", ".join(offer.priority for offer in gpu.prices) or "none"
        message = f"{gpu.name} is not offered at priority {priority}"
        return bad("GPU", message, f"set cluster.priority; offered: {offered}")
    message = f"{gpu.name}, ${price} an hour at priority {priority}"
    memory = memory_of(gpu.name)
    if memory is not None and memory < memory_gb:
        return bad("GPU", message, f"the jobs need {memory_gb} GB: choose another cluster.gpu")
    return ok("GPU", message)


def check_quota(salad: Salad, clusters: Iterable[ClusterSettings]) -> list[CheckResult]:
    quotas, own = salad.quotas(), list(clusters)
    groups = [salad.get_group(cluster.name) for cluster in own]
    others = quotas.used - sum(group.replicas for group in groups if group)
    wanted = sum(cluster.max_replicas for cluster in own)
    usage = f"{others} used by other groups, this stack may use {wanted}"
    message = f"{quotas.quota} replicas, {usage}"
    if quotas.quota < wanted:
        return [bad("Quota", message, "lower cluster.maxReplicas, or ask SaladCloud for more")]
    if quotas.quota - others < wanted:
        return [note("Quota", message, "fewer nodes than cluster.maxReplicas can start now")]
    return [ok("Quota", message)]


def check_group(group: ContainerGroup | None, owner: str, adopt: bool) -> list[CheckResult]:
    """Whether the stack `owner` (`<project>/<stack>`) may use the container group of this name, if there is one."""
    if group is None:
        return [ok("Group", "does not exist yet; its name is free")]
    other = group.environment_value(OWNER_VARIABLE)
    if adopt or other == owner:
        return [ok("Group", f"{group.name} may be used by this stack")]
    whose = f"belongs to {other}" if other else "was not created by this project"
    return [
        bad(
            "Group",
            f"{group.name} exists already and {whose}",
            f"choose another cluster.name, or set {describe_adopt_setting(owner)}{describe_rename_back(owner, other)}",
        )
    ]


def check_kelpie(connection: Connection, cluster: ClusterSettings, up: str) -> list[CheckResult]:
    """That Kelpie accepts the key, and whether its user has started the group before. `up`: the command that deploys the stack."""
    group = connection.salad().get_group(cluster.name)
    jobs = connection.kelpie().list_jobs(group.id if group else NO_GROUP)
    found = [ok("Kelpie's key", "Kelpie accepts the SaladCloud key")]
    if not cluster.autoscale:
        return [*found, ok("Kelpie's user", "not needed: cluster.autoscale is false")]
    rule = connection.kelpie().get_rule(group.id) if group else None
    return [*found, check_invitation(group, rule, jobs, datetime.now(UTC), up)]


def check_invitation(
    group: ContainerGroup | None, rule: KelpieRule | None, jobs: list[Job], now: datetime, up: str
) -> CheckResult:
    """No API shows whether Kelpie's user is invited to the organization; only what it has done there."""
    title = "Kelpie's user"
    fix = "invite Kelpie's user to the organization (docs/production.md, section 2), then wait five minutes"
    unknown = "whether Kelpie's user is in the organization cannot be checked"
    if group is None or rule is None:
        missing = "the container group" if group is None else "the scaling rule"
        return note(title, f"{unknown} before {missing} exists", f"run {up}")
    if group.replicas > rule.min_replicas or any(job.started for job in jobs):
        return ok(title, "Kelpie's user has started nodes of this group before, so it is in the organization")
    waiting = [seconds_since(job.created, now) for job in jobs if job.status == RunState.PENDING]
    longest = max(waiting, default=0.0)
    if longest > MAX_PENDING_SECONDS and rule.max_replicas > 0:
        message = f"a job has waited for {show_duration(longest)} and the group was never scaled up"
        return bad(title, message, fix)
    return note(title, f"{unknown} yet: no job has needed a node so far", fix)


def check_cloudflare(connection: Connection, settings: StackSettings, up: str) -> list[CheckResult]:
    """That the token may see buckets and, if needed, the account's tokens. Its write rights are tested by `up` only."""
    title, name = "Cloudflare's token", settings.storage.bucket
    cloudflare = connection.cloudflare()
    exists = cloudflare.get_bucket(name) is not None
    state = "exists" if exists else f"does not exist yet, {up} creates it"
    found = [ok(title, f"is accepted: bucket {name} {state}")]
    if settings.storage.credentials == "token":
        cloudflare.tokens_with_name("flux doctor")
        found.append(
            ok(title, "may list the account's tokens, which is needed to create the nodes' own token")
        )
    return found


def check_bucket(storage: Storage, settings: StackSettings, up: str) -> list[CheckResult]:
    """Write, read, list and delete a test object, and check that conditional writes work."""
    if not storage.exists():
        message = f"{storage.bucket} does not exist yet, so the rights cannot be checked"
        return [note("Bucket", message, f"{up} creates it")]
    own = Layout(settings.storage.key_prefix).own
    key = f"{own}doctor-{uuid.uuid4().hex}"
    problems: list[str] = []

    def attempt(verb: str, act: Callable[[], bool]) -> None:
        try:
            if not act():
                problems.append(f"cannot {verb}: the result is wrong")
        except ServiceError as error:
            problems.append(f"cannot {verb}: {error.what}")

    attempt("write", lambda: bool(storage.put_bytes(key, b"flux doctor", if_none_match=True)))
    if not problems:
        attempt("read", lambda: storage.get_bytes(key) == b"flux doctor")
        attempt("list", lambda: [item.key for item in storage.list(key)] == [key])
        attempt("claim (If-None-Match, If-Match)", lambda: not ignored_conditions(storage, own))
        attempt("delete", lambda: _delete(storage, key))
    if problems:
        fix = f"give the storage key read, write and delete rights on bucket {storage.bucket}"
        return [bad("Bucket", f"{storage.bucket}: {problem}", fix) for problem in problems]
    return [ok("Bucket", f"{storage.bucket}: writing, reading, listing, claiming and deleting work")]


def check_finished_weights(storage: Storage, jobs: Sequence[StackJob], stack: str) -> list[CheckResult]:
    """That the finished jobs still have the weights that were verified first."""
    if not jobs:
        return []
    replaced = replaced_weights(jobs, storage, stack)
    if replaced:
        return [bad("Results", *text.split("; ", 1)) for text in replaced]
    return [
        ok(
            "Results",
            f"{counted(len(jobs), 'deployed job')} checked: the weights are those that were verified first",
        )
    ]


def check_node_keys(stack: StackServices) -> list[CheckResult]:
    """That nodes cannot write the stack's own records. Nodes of the local cloud are processes of this machine."""
    if stack.connection.cloud == "local":
        return []
    if stack.nodes_reach_records:
        return [note("Nodes' keys", *shared_keys_warning(stack.settings.storage.kind).split("; ", 1))]
    return [ok("Nodes' keys", "give no access to the records in .flux/, as intended")]


def _delete(storage: Storage, key: str) -> bool:
    storage.delete_many([key])
    try:
        return storage.head(key) is None
    except NotFound:
        return True
