"""In which order resources go, what stops them, and which ones a command is about; without a process."""

import threading
import time
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st
from made_up import resource, urn
from pulumi_embedded.deployment import events
from pulumi_embedded.deployment.deletions import Deletions
from pulumi_embedded.deployment.targets import ALL, RunOptions, Targets
from pulumi_embedded.errors import EngineError
from pulumi_embedded.properties import urns
from pulumi_embedded.state.serialization import Resource


class FakeSteps:
    """Deletes what it is told to, except what it refuses; says in which order, and whether anything was out of order."""

    def __init__(self, *refuses: str, error: Exception | None = None, preview: bool = False) -> None:
        self.preview = preview
        self.done: list[str] = []
        self.how: dict[str, tuple[str, bool]] = {}
        self._refuses = refuses
        self._error = error or EngineError("refused")
        self._lock = threading.Lock()

    def delete_resource(self, old: Resource, *, op: str, skip_provider: bool) -> None:
        name = urns.name_of(old.urn)
        if name in self._refuses:
            raise self._error
        with self._lock:
            self.done.append(name)
            self.how[name] = (op, skip_provider)


class FakeListener:
    def __init__(self) -> None:
        self.messages: list[tuple[int, str, str]] = []

    def on_message(self, severity: int, urn: str, text: str) -> None:
        self.messages.append((severity, urn, text))


def delete(
    steps: FakeSteps,
    *resources: Resource,
    parallel: int = 4,
    on_error: bool = False,
    stopped: bool = False,
    aliases: dict[str, str] | None = None,
    listener: FakeListener | None = None,
) -> bool:
    stopping = threading.Event()
    if stopped:
        stopping.set()
    options = RunOptions(parallel=parallel, continue_on_error=on_error)
    deletions = Deletions(cast(Any, steps), cast(Any, listener or FakeListener()), stopping, options)
    return deletions.delete_all(list(resources), aliases)


@pytest.mark.parametrize("parallel", [0, 1, 4])
def test_dependents_are_deleted_first(parallel: int) -> None:
    steps = FakeSteps()
    assert delete(steps, resource("a"), resource("b", "a"), resource("c", "b"), parallel=parallel)
    assert steps.done == ["c", "b", "a"]
    assert set(steps.how.values()) == {(events.DELETE, False)}


@given(st.lists(st.lists(st.integers(0, 7), max_size=4), min_size=1, max_size=8), st.randoms())
def test_dependents_are_deleted_first_for_any_order_of_rows(depends: list[list[int]], random: Any) -> None:
    graph = {str(i): [str(j) for j in on if j < i] for i, on in enumerate(depends)}
    rows = [resource(name, *on) for name, on in graph.items()]
    random.shuffle(rows)
    steps = FakeSteps()
    assert delete(steps, *rows)
    assert sorted(steps.done) == sorted(graph)
    for name, needs in graph.items():
        assert all(steps.done.index(name) < steps.done.index(one) for one in needs)


BASE = [resource("bad"), resource("base"), resource("user", "base")]
CHAINS = [resource("a"), resource("bad", "a"), resource("c", "bad"), resource("x"), resource("y", "x")]


@pytest.mark.parametrize(
    ("rows", "on_error", "deleted"),
    [
        # What `bad` needs stays with it. What has nothing to do with it is deleted.
        (CHAINS, True, ["c", "y", "x"]),
        ([resource("a"), resource("b", "a"), resource("bad", "b")], False, []),
        ([resource("bad")], False, []),
        ([resource("bad"), resource("b")], True, ["b"]),
        # One at a time: the failure is there before `user`, which was begun with it, has ended.
        (BASE, False, ["user"]),
        (BASE, True, ["user", "base"]),
    ],
)
def test_what_is_deleted_although_a_deletion_fails(
    rows: list[Resource], on_error: bool, deleted: list[str]
) -> None:
    steps = FakeSteps("bad")
    assert not delete(steps, *rows, parallel=1, on_error=on_error)
    assert steps.done == deleted


@pytest.mark.parametrize(
    ("rows", "aliases", "deleted"),
    [
        ([resource("a", delete=True), resource("a"), resource("b", "a")], {}, ["b", "a", "a"]),
        ([resource("is"), resource("user", "was")], {urn("was"): urn("is")}, ["user", "is"]),
        ([resource("was"), resource("user", "is")], {urn("was"): urn("is")}, ["user", "was"]),
    ],
)
def test_dependents_are_found_by_urn_and_former_urn(
    rows: list[Resource], aliases: dict[str, str], deleted: list[str]
) -> None:
    steps = FakeSteps()
    assert delete(steps, *rows, parallel=1, aliases=aliases)
    assert steps.done == deleted


def test_nothing_is_deleted_when_stopped() -> None:
    steps = FakeSteps()
    assert not delete(steps, resource("a"), stopped=True)
    assert steps.done == []
    assert delete(steps, stopped=True)


class SlowSteps(FakeSteps):
    """`waits`: who goes on only once another's deletion has been tried; `most`: how many were under way at once."""

    def __init__(self, *refuses: str, waits: dict[str, str]) -> None:
        super().__init__(*refuses)
        self.most = self.running = 0
        self.in_time = True
        self._waits = waits
        self._tried: dict[str, threading.Event] = {one: threading.Event() for one in waits.values()}

    def delete_resource(self, old: Resource, *, op: str, skip_provider: bool) -> None:
        name = urns.name_of(old.urn)
        with self._lock:
            self.running += 1
            self.most = max(self.most, self.running)
        try:
            time.sleep(0.002)  # long enough for others to begin
            if name in self._waits:
                self.in_time &= self._tried[self._waits[name]].wait(10)
            super().delete_resource(old, op=op, skip_provider=skip_provider)
        finally:
            with self._lock:
                self.running -= 1
            if name in self._tried:
                self._tried[name].set()


def test_parallel_limits_the_deletions_at_a_time() -> None:
    steps = SlowSteps(waits={})
    assert delete(steps, *(resource(str(number)) for number in range(20)), parallel=1)
    assert (len(steps.done), steps.most) == (20, 1)


def test_a_slow_deletion_does_not_delay_independent_ones() -> None:
    steps = SlowSteps(waits={"slow": "b"})
    assert delete(steps, resource("slow"), resource("b"), resource("a", "b"))
    assert steps.in_time
    assert steps.done == ["a", "b", "slow"]


def test_unexpected_exceptions_are_raised() -> None:
    with pytest.raises(RuntimeError, match="a bug"):
        delete(FakeSteps("a", error=RuntimeError("a bug")), resource("a"))


def test_originals_of_replacements_have_their_own_operation() -> None:
    steps = FakeSteps()
    old = resource("a", delete=True, protect=True)
    assert delete(steps, old, resource("guest", deleted_with=urn("host")), resource("host"))
    assert steps.how["a"] == (events.DELETE_REPLACED, False)
    # What goes with another that goes is not asked for by itself.
    assert steps.how["guest"] == (events.DELETE, True)
    assert steps.done.index("guest") < steps.done.index("host")


def test_deleted_with_ignores_originals_of_replacements() -> None:
    steps = FakeSteps()
    assert delete(steps, resource("host", delete=True), resource("guest", deleted_with=urn("host")))
    assert steps.how["guest"] == (events.DELETE, False)


def test_a_protected_resource_prevents_all_deletions() -> None:
    steps, listener = FakeSteps(), FakeListener()
    assert not delete(steps, resource("a", protect=True), resource("b"), listener=listener)
    assert steps.done == []
    text = (
        f'resource "{urn("a")}" cannot be deleted\nbecause it is protected. To unprotect the resource, either remove '
        "the `protect` flag from the resource in your Pulumi program and run `pulumi up`, or use the command:\n"
        f"`pulumi state unprotect '{urn('a')}'`"
    )
    assert listener.messages == [(events.ERROR, urn("a"), text)]
    # A preview shows what would go, and still says no.
    steps = FakeSteps(preview=True)
    assert not delete(steps, resource("a", protect=True), resource("b"))
    assert sorted(steps.done) == ["a", "b"]


def test_without_targets_all_resources_are_selected() -> None:
    rows = [resource("a"), resource("b", "a")]
    assert not ALL
    assert ALL.includes("anything")
    assert ALL.select_for_delete(rows) is rows
    ALL.check_known([])


def test_a_target_is_a_urn_or_a_pattern() -> None:
    targets = Targets((urn("a"), "**::b*"))
    assert targets
    assert [name for name in ("a", "b1", "ab", "A") if targets.includes(urn(name))] == ["a", "b1"]
    targets.check_known([urn("a"), urn("b2")])
    with pytest.raises(EngineError) as caught:
        targets.check_known([urn("a")])
    assert str(caught.value) == (
        r"Target '**::b*' could not be found in the stack. Did you forget to escape $ in your shell?"
    )
    with pytest.raises(EngineError, match=f"^no {urn('x')}$"):
        Targets((urn("x"),)).check_known([urn("a")], "no {}")


def test_dependents_of_a_target_must_be_targets() -> None:
    rows = [resource("a"), resource("b", "a"), resource("c", "b"), resource("x")]
    assert Targets((urn("c"),)).select_for_delete(rows) == [rows[2]]
    assert Targets((urn("b"), urn("c"))).select_for_delete(rows) == rows[1:3]
    assert Targets((urn("a"),), dependents=True).select_for_delete(rows) == rows[:3]
    with pytest.raises(EngineError) as caught:
        Targets((urn("a"),)).select_for_delete(rows)
    assert str(caught.value) == (
        f"Resource '{urn('b')}' will be destroyed but was not specified in --target list.\nEither include resource in "
        "--target list or pass --target-dependents to proceed."
    )
    with pytest.raises(EngineError, match="Target 'urn:none' could not be found in the stack"):
        Targets(("urn:none",)).select_for_delete(rows)


def test_what_depends_on_a_target_can_be_a_target_too() -> None:
    rows = [resource("a"), resource("b", "a"), resource("c", "b"), resource("x")]
    assert Targets((urn("a"),)).select(rows) == rows[:1]
    assert Targets((urn("a"),), dependents=True).select(rows) == rows[:3]
    assert Targets(("**::b", "**::x"), dependents=True).select(rows) == rows[1:]


def test_excluded_resources_are_not_targets() -> None:
    rows = [resource("a"), resource("b", "a"), resource("c", "b"), resource("x")]
    assert Targets(excluded=(urn("b"),))
    assert Targets(excluded=(urn("b"),)).select(rows) == [rows[0], rows[2], rows[3]]
    assert Targets(excluded=(urn("b"),), dependents=True).select(rows) == [rows[0], rows[3]]


def test_what_an_excluded_resource_depends_on_is_not_deleted() -> None:
    rows = [resource("a"), resource("b", "a"), resource("c", "b"), resource("x")]
    assert Targets(excluded=(urn("b"),)).select_for_delete(rows) == rows[2:]
    assert Targets(excluded=(urn("c"),)).select_for_delete(rows) == rows[3:]
