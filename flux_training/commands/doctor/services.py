"""The services: can they be reached, do they take the keys, may the bucket be used, will Kelpie start the group?"""

from __future__ import annotations

import re
import uuid
from collections.abc import Callable
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

import httpx

from flux_training.clients.cloudflare import Cloudflare
from flux_training.clients.conditions import unheeded_conditions
from flux_training.clients.connection import Connection
from flux_training.clients.errors import NotFound, ServiceError
from flux_training.clients.gpu_classes import GpuClass, find_gpu_class
from flux_training.clients.http import LOOPBACK, Patience
from flux_training.clients.kelpie import Job, Kelpie, ScalingRule
from flux_training.clients.pricing import offer_of
from flux_training.clients.salad import ContainerGroup, Salad
from flux_training.clients.storage import AWS_URL, Storage
from flux_training.commands.doctor.finding import Finding, bad, note, ok
from flux_training.commands.watch.health import PATIENCE_SECONDS, age
from flux_training.training.errors import BadInput
from flux_training.training.gpu import choose_gpu, names_a_class
from flux_training.training.runs.run import Layout
from flux_training.training.runs.run_state import in_words
from flux_training.training.settings import ClusterSettings, StackSettings

# A doctor does not wait: what is down now is told now.
ONCE = Patience(attempts=2, first=0.2, total=20)
REACH_SECONDS = 8.0
# S3 refuses requests that are 15 minutes off; well before that something is wrong with a clock.
NOTABLE_SKEW, BAD_SKEW = 30.0, 300.0
NOBODY = "00000000-0000-0000-0000-000000000000"
LEAST_GPU_GB = 24


class Services:
    """Clients that give up soon."""

    def __init__(self, connection: Connection) -> None:
        account = (connection.api_key, connection.organization, connection.project)
        self.connection = connection
        self.salad = Salad(connection.salad_url, *account, patience=ONCE)
        self.kelpie = Kelpie(connection.kelpie_url, *account, patience=ONCE)

    def storage(self, bucket: str) -> Storage:
        link = self.connection
        return Storage(
            link.s3_endpoint,
            link.s3_region,
            link.s3_access_key_id,
            link.s3_secret_access_key,
            link.s3_session_token,
            bucket,
            retries=1,
        )

    def cloudflare(self) -> Cloudflare:
        """Raises BadInput when the stack has no Cloudflare account."""
        link = self.connection
        if link.cloudflare_account_id is None or link.cloudflare_api_token is None:
            raise BadInput(["storage.kind r2 needs CLOUDFLARE_ACCOUNT_ID and CLOUDFLARE_API_TOKEN; set both"])
        return Cloudflare(
            link.cloudflare_url, link.cloudflare_account_id, link.cloudflare_api_token, patience=ONCE
        )


def addresses(connection: Connection) -> dict[str, str]:
    return {
        "SaladCloud": connection.salad_url,
        "Kelpie": connection.kelpie_url,
        "Storage": connection.s3_endpoint or AWS_URL,
    }


def check_reach(what: str, url: str) -> list[Finding]:
    """Whether anything answers there, and whether its clock is ours. Without a key: any answer will do."""
    host = httpx.URL(url).host
    try:
        before = datetime.now(UTC)
        answer = httpx.get(url, timeout=REACH_SECONDS, trust_env=host not in LOOPBACK)
        after = datetime.now(UTC)
    except httpx.HTTPError as failure:
        reason = str(failure) or type(failure).__name__
        return [
            bad(what, f"{host} cannot be reached: {reason}", "check the network, a proxy, and the address")
        ]
    return [
        ok(what, f"answers at {host}"),
        *clock(what, answer.headers.get("Date"), before + (after - before) / 2),
    ]


def clock(what: str, date: str | None, now: datetime) -> list[Finding]:
    """A finding when the service's Date is far from our time; both are UTC, the header has whole seconds."""
    try:
        theirs = parsedate_to_datetime(date or "")
    except ValueError:
        return []
    off = (now - theirs.astimezone(UTC)).total_seconds()
    if abs(off) < NOTABLE_SKEW:
        return []
    words = f"this machine is {in_words(abs(off))} {'ahead of' if off > 0 else 'behind'} {what}"
    mend = "let this machine set its clock by the network (timedatectl set-ntp true)"
    return [(bad if abs(off) >= BAD_SKEW else note)("Clock", words, mend)]


def check_gpu(classes: list[GpuClass], cluster: ClusterSettings, need: int) -> list[Finding]:
    """`need`: GB of GPU memory that the jobs need. Raises BadInput for a class that is not offered, and a condition that none meets."""
    if not names_a_class(cluster.gpu):
        offers = [offer_of(one, cluster.priority) for one in classes if one.gpu_class_type == "community"]
        # Without the jobs' hours: whether any class will do, and what the cheapest one costs.
        offer = choose_gpu(cluster.gpu, need, offers, lambda _offer: 1.0, kept=None)
        price_now = f"{offer.name} at ${offer.usd_an_hour} an hour at priority {cluster.priority}"
        return [ok("GPU", f"`{cluster.gpu}` is met, by {price_now}; `preview` says which class is taken")]
    gpu = find_gpu_class(classes, cluster.gpu)
    price = gpu.price(cluster.priority)
    if price is None:
        offered = ", ".join(offer.priority for offer in gpu.prices) or "none"
        return [
            bad(
                "GPU",
                f"{gpu.name} is not offered at priority {cluster.priority}",
                f"set cluster.priority; offered: {offered}",
            )
        ]
    words = f"{gpu.name}, ${price} an hour at priority {cluster.priority}"
    memory = re.search(r"\((\d+) GB\)", gpu.name)
    if memory and int(memory[1]) < LEAST_GPU_GB:
        return [bad("GPU", words, f"FLUX.1-dev wants {LEAST_GPU_GB} GB: choose another cluster.gpu")]
    return [ok("GPU", words)]


def check_quota(salad: Salad, cluster: ClusterSettings) -> list[Finding]:
    quotas = salad.quotas()
    group = salad.get_group(cluster.name)
    others = quotas.used - (group.replicas if group else 0)
    words = (
        f"{quotas.quota} replicas, {others} used by other groups, this stack may want {cluster.max_replicas}"
    )
    if quotas.quota < cluster.max_replicas:
        return [bad("Quota", words, "lower cluster.maxReplicas, or ask SaladCloud for more")]
    if quotas.quota - others < cluster.max_replicas:
        return [note("Quota", words, "fewer nodes than cluster.maxReplicas can start now")]
    return [ok("Quota", words)]


def check_kelpie(services: Services, cluster: ClusterSettings) -> list[Finding]:
    """That Kelpie takes the key, and whether its user was seen to start the group."""
    group = services.salad.get_group(cluster.name)
    jobs = services.kelpie.list_jobs(group.id if group else NOBODY)
    found = [ok("Kelpie's key", "Kelpie takes the SaladCloud key")]
    if not cluster.autoscale:
        return [*found, ok("Kelpie's user", "not needed: cluster.autoscale is false")]
    rule = services.kelpie.get_rule(group.id) if group else None
    return [*found, invitation(group, rule, jobs, datetime.now(UTC))]


def invitation(
    group: ContainerGroup | None, rule: ScalingRule | None, jobs: list[Job], now: datetime
) -> Finding:
    """No API tells whether Kelpie's user is invited to the organization; what it has done there does."""
    what = "Kelpie's user"
    mend = "invite Kelpie's user to the organization (docs/production.md, 2), then wait five minutes"
    if group is None or rule is None:
        missing = "the container group" if group is None else "the scaling rule"
        return note(
            what,
            f"whether it is in the organization cannot be known before {missing} is there",
            "run `make up`",
        )
    if group.replicas > rule.min_replicas or any(job.started for job in jobs):
        return ok(what, "it has started nodes of this group before, so it is in the organization")
    waiting = [age(job.created, now) for job in jobs if job.status == "pending"]
    longest = max(waiting, default=0.0)
    if longest > PATIENCE_SECONDS and rule.max_replicas > 0:
        return bad(what, f"a job has waited for {in_words(longest)} and the group was never scaled up", mend)
    return note(
        what, "whether it is in the organization cannot be known yet: no job has needed a node so far", mend
    )


def check_cloudflare(services: Services, settings: StackSettings) -> list[Finding]:
    """That the token is taken where R2 makes the bucket, and where tokens for the nodes are made. Whether it may write shows `up`."""
    what, name = "Cloudflare's token", settings.storage.bucket
    cloudflare = services.cloudflare()
    there = cloudflare.get_bucket(name) is not None
    found = [
        ok(what, f"is taken: bucket {name} is {'there' if there else 'not there yet, `make up` makes it'}")
    ]
    if settings.storage.credentials == "token":
        cloudflare.tokens_named("flux doctor")
        found.append(ok(what, "may see the account's tokens, of which the nodes get one"))
    return found


def check_bucket(storage: Storage, settings: StackSettings) -> list[Finding]:
    """Writes, reads, lists and deletes an object of its own, and sees whether two cannot write the same one first."""
    if not storage.exists():
        return [
            note(
                "Bucket",
                f"{storage.bucket} is not there yet, so its rights are not known",
                "`make up` makes it",
            )
        ]
    own = Layout(settings.storage.key_prefix).own
    key = f"{own}doctor-{uuid.uuid4().hex}"
    mend = f"give the storage key read, write and delete rights on bucket {storage.bucket}"
    faults: list[str] = []

    def try_to(verb: str, act: Callable[[], bool]) -> None:
        try:
            if not act():
                faults.append(f"cannot {verb}: what came back is something else")
        except ServiceError as error:
            faults.append(f"cannot {verb}: {error.what}")

    try_to("write", lambda: bool(storage.put_bytes(key, b"flux doctor", if_none_match=True)))
    if not faults:
        try_to("read", lambda: storage.get_bytes(key) == b"flux doctor")
        try_to("list", lambda: [item.key for item in storage.list(key)] == [key])
        try_to("claim (If-None-Match, If-Match)", lambda: not unheeded_conditions(storage, own))
        try_to("delete", lambda: _is_gone(storage, key))
    if faults:
        return [bad("Bucket", f"{storage.bucket}: {fault}", mend) for fault in faults]
    return [ok("Bucket", f"{storage.bucket}: writing, reading, listing, claiming and deleting work")]


def _is_gone(storage: Storage, key: str) -> bool:
    storage.delete_many([key])
    try:
        return storage.head(key) is None
    except NotFound:
        return True
