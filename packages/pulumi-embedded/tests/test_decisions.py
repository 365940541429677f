"""What the engine decides about one resource: its place, its check, its diff, what goes before it; without a process."""

from typing import Any, cast

import pytest
from made_up import PROVIDER, TYPE, goal, resource, urn
from pulumi_embedded.deployment.decisions import Cascade, Decisions
from pulumi_embedded.deployment.goals import Alias, AliasResolver
from pulumi_embedded.deployment.resource_index import RegisteredResource, ResourceIndex
from pulumi_embedded.errors import EngineError, NeedsCliError, StepError
from pulumi_embedded.properties import urns, values
from pulumi_embedded.properties.values import UNKNOWN
from pulumi_embedded.providers.provider import CheckFailure, Diff
from pulumi_embedded.state.serialization import Resource, StackState


def index_of(*olds: Resource) -> ResourceIndex:
    return ResourceIndex.from_state("dev", "p", StackState(list(olds)))


def test_a_registration_finds_its_old_resource() -> None:
    old, going = resource("one", created="then", modified="later"), resource("two", delete=True)
    found = index_of(old, going)
    wanted = goal("one", inputs={"a": 1})
    placed = found.add_registration(wanted, PROVIDER)
    assert placed.goal is wanted
    assert (placed.old, placed.alias, placed.old_inputs) == (old, None, old.inputs)
    assert (placed.new.urn, placed.new.provider, placed.new.inputs) == (urn("one"), PROVIDER, {"a": 1})
    assert (placed.new.created, placed.new.modified) == ("then", "later")
    assert found.news == {urn("one"): placed.new}
    assert (found.has_registration(old), found.has_registration(going)) == (True, False)
    # A row that is still to be deleted is nobody's old self.
    fresh = found.add_registration(goal("two"), "")
    assert (fresh.old, fresh.alias, fresh.old_inputs) == (None, None, {})
    assert (fresh.new.created, fresh.new.modified) == ("", "")


def test_a_urn_is_registered_once_and_its_parent_must_exist() -> None:
    found = index_of()
    parent = found.add_registration(goal("one"), "").new
    with pytest.raises(EngineError, match=r"Duplicate resource URN 'urn:pulumi:dev::p::t:i:T::one'"):
        found.add_registration(goal("one"), "")
    with pytest.raises(
        EngineError, match="the parent urn:pulumi:dev::p::t:i:T::x of t:i:T 'child' has not been"
    ):
        found.add_registration(goal("child", parent=urn("x")), "")
    child = found.add_registration(goal("child", parent=parent.urn), "").new
    assert child.urn == "urn:pulumi:dev::p::t:i:T$t:i:T::child"


def test_an_alias_finds_the_old_resource() -> None:
    old = resource("was")
    placed = index_of(old).add_registration(goal("is", aliases=[Alias(name="was")]), "")
    assert (placed.old, placed.alias) == (old, (urn("was"), urn("is")))


def test_keep_old_registers_only_existing_resources() -> None:
    old = resource("one")
    found = index_of(old)
    assert found.add_unchanged(goal("one")) == (urn("one"), old)
    assert found.add_unchanged(goal("none")) == (urn("none"), None)
    assert found.news == {urn("one"): old}
    assert not found.has_registration(old)


def test_an_alias_can_be_used_once() -> None:
    names = AliasResolver("dev", "p")
    olds = {urn("was"): object()}
    alias = [Alias(name="none"), Alias(name="was")]
    assert names.find_old_urn(goal("one", aliases=alias), urn("one"), olds) == urn("was")
    assert names.taken == {urn("was"): urn("one")}
    with pytest.raises(EngineError) as caught:
        names.find_old_urn(goal("two", aliases=alias), urn("two"), olds)
    assert str(caught.value) == (
        f"Duplicate resource alias '{urn('was')}' applied to resource with URN '{urn('two')}' conflicting with resource with "
        f"URN '{urn('one')}'"
    )
    with pytest.raises(EngineError) as caught:
        names.find_old_urn(goal("was"), urn("was"), olds)
    assert str(caught.value) == (
        f"Duplicate resource URN '{urn('was')}' conflicting with alias on resource with URN '{urn('one')}'"
    )
    assert names.find_old_urn(goal("three"), urn("three"), {urn("three"): object()}) == urn("three")
    assert names.find_old_urn(goal("four", aliases=[Alias(name="none")]), urn("four"), olds) is None


def test_an_alias_that_is_still_a_urn_is_refused() -> None:
    names = AliasResolver("dev", "p")
    olds = {urn("was"): object()}
    with pytest.raises(
        EngineError, match="conflicting with resource with URN 'urn:pulumi:dev::p::t:i:T::was'"
    ):
        names.find_old_urn(goal("is", aliases=[Alias(name="was")]), urn("is"), olds, news={urn("was")})
    found = index_of(resource("was"))
    found.add_registration(goal("was"), "")
    with pytest.raises(EngineError, match="Duplicate resource alias"):
        found.add_registration(goal("is", aliases=[Alias(name="was")]), "")


@pytest.mark.parametrize(
    ("alias", "was"),
    [
        (Alias(urn="urn:any"), "urn:any"),
        (Alias(name="n"), "urn:pulumi:dev::p::g:i:G$t:i:T::n"),
        (Alias(type="o:i:O"), "urn:pulumi:dev::p::g:i:G$o:i:O::one"),
        (Alias(stack="s"), "urn:pulumi:s::p::g:i:G$t:i:T::one"),
        (Alias(project="q"), "urn:pulumi:dev::q::g:i:G$t:i:T::one"),
        (Alias(no_parent=True), "urn:pulumi:dev::p::t:i:T::one"),
        (Alias(parent="urn:pulumi:dev::p::h:i:H::h"), "urn:pulumi:dev::p::h:i:H$t:i:T::one"),
        (Alias(parent="urn:pulumi:dev::p::pulumi:pulumi:Stack::p-dev"), "urn:pulumi:dev::p::t:i:T::one"),
    ],
)
def test_empty_parts_of_an_alias_have_not_changed(alias: Alias, was: str) -> None:
    parent = "urn:pulumi:dev::p::g:i:G::g"
    assert AliasResolver("dev", "p").possible_old_urns(goal("one", parent=parent, aliases=[alias])) == [was]


def test_children_follow_a_renamed_parent() -> None:
    names = AliasResolver("dev", "p")
    old_parent, new_parent = urn("old"), urn("new")
    names.find_old_urn(goal("new", aliases=[Alias(name="old")]), new_parent, {old_parent: object()})
    below = "urn:pulumi:dev::p::t:i:T$"
    assert names.possible_old_urns(goal("new-child", parent=new_parent)) == [f"{below}t:i:T::old-child"]
    assert names.possible_old_urns(goal("child", parent=new_parent)) == [f"{below}t:i:T::child"]
    # With a name of its own and the parent's: all that it may have been called, each once.
    assert names.possible_old_urns(goal("new-b", parent=new_parent, aliases=[Alias(name="new-a")])) == [
        f"{below}t:i:T::new-a",
        f"{below}t:i:T::old-b",
        f"{below}t:i:T::old-a",
    ]
    # An alias that names the parent as it is now means the parent as it was.
    assert names.possible_old_urns(goal("c", aliases=[Alias(parent=new_parent)])) == [f"{below}t:i:T::c"]
    typed, was = urn("typed"), "urn:pulumi:dev::p::o:i:O::typed"
    names.find_old_urn(goal("typed", aliases=[Alias(type="o:i:O")]), typed, {was: object()})
    assert names.possible_old_urns(goal("c", aliases=[Alias(parent=typed)])) == [
        "urn:pulumi:dev::p::o:i:O$t:i:T::c"
    ]


def test_a_goal_becomes_the_stored_resource() -> None:
    wanted = goal(
        "one",
        parent="urn:parent",
        inputs={"a": 1},
        dependencies=["b", "a"],
        property_dependencies={"k": ["d", "c"]},
        protect=True,
        retain_on_delete=True,
        ignore_changes=["i"],
        replace_on_changes=["r"],
        additional_secret_outputs=["s"],
        deleted_with="urn:w",
        custom_timeouts={"create": 1},
        source_position="here",
    )
    old = resource("one", created="then", modified="later", protect=False)
    assert wanted.resource(urn("one"), "provider", old) == Resource(
        urn=urn("one"),
        type=TYPE,
        custom=True,
        inputs={"a": 1},
        parent="urn:parent",
        protect=True,
        dependencies=["a", "b"],
        provider="provider",
        property_dependencies={"k": ["c", "d"]},
        additional_secret_outputs=["s"],
        custom_timeouts={"create": 1},
        retain_on_delete=True,
        deleted_with="urn:w",
        created="then",
        modified="later",
        source_position="here",
        ignore_changes=["i"],
        replace_on_changes=["r"],
    )


class FakeProvider:
    """Answers as told and remembers what it was asked."""

    def __init__(self, said: Diff | None = None) -> None:
        self.said = said or Diff(False, by_engine=True)
        self.asked: list[Any] = []
        self.failures: list[CheckFailure] = []

    def check(self, urn: str, old: Any, new: Any) -> tuple[Any, list[CheckFailure]]:
        self.asked.append((urn, old, new))
        return new | {"checked": True}, self.failures

    def diff(self, old: Resource, new: Any, ignore: list[str]) -> Diff:
        self.asked.append((old.urn, old.inputs, new, ignore))
        return self.said


class FakeProviders:
    """One provider for all, which answers that the inputs in `properties_that_force_replacement` replace when they change."""

    def __init__(self, *properties_that_force_replacement: str) -> None:
        self._replaces_on = properties_that_force_replacement
        self.asked: list[Any] = []
        self.loaded = 0

    def load_providers(self, resources: list[Resource]) -> None:
        self.loaded = len(resources)

    def get_provider(self, reference: str) -> Any:
        assert self.loaded
        assert reference == PROVIDER
        return self

    def diff(self, old: Resource, new: Any, ignore: list[str]) -> Diff:
        self.asked.append((urns.name_of(old.urn), old.inputs, new, ignore))
        if not self._replaces_on:
            return Diff(False, by_engine=True)
        changed = [key for key in self._replaces_on if not values.is_same(old.inputs.get(key), new.get(key))]
        return Diff(bool(changed), changed)


def decisions(*olds: Resource, providers: Any = None, on_failures: Any = None) -> Decisions:
    state = StackState(list(olds))
    found = ResourceIndex.from_state("dev", "p", state)
    return Decisions(state, found, cast(Any, providers or FakeProviders()), on_failures or (lambda *_: None))


def placed(old: Resource | None, new: Resource, **of_goal: Any) -> RegisteredResource:
    wanted = goal(urns.name_of(new.urn), custom=new.custom, inputs=new.inputs, **of_goal)
    return RegisteredResource(wanted, new, old)


def test_check_gets_the_old_inputs_and_ignored_changes_are_reset() -> None:
    told: list[Any] = []
    provider = FakeProvider()
    provider.failures = [CheckFailure("a", "bad")]
    one = placed(
        resource("one", inputs={"a": 1, "b": 1}),
        resource("one", inputs={"a": 2, "b": 2}),
        ignore_changes=["a"],
    )
    deciding = decisions(on_failures=lambda *what: told.append(what))
    deciding.check_inputs(one, cast(Any, provider))
    assert provider.asked == [(urn("one"), {"a": 1, "b": 1}, {"a": 1, "b": 2})]
    assert one.new.inputs == {"a": 1, "b": 2, "checked": True}
    assert told == [(one, provider.failures)]


def test_components_are_not_checked() -> None:
    one = placed(resource("one", inputs={"a": 1}), resource("one", inputs={"a": 2}), ignore_changes=["a"])
    decisions().check_inputs(one, None)
    assert one.new.inputs == {"a": 1}
    decisions().check_inputs_as_new(one, None)
    assert one.new.inputs == {"a": 1}


def test_a_resource_that_is_recreated_is_checked_as_new() -> None:
    provider = FakeProvider()
    old = resource("one", inputs={"a": 1})
    one = placed(old, resource("one", inputs={"a": 2}), ignore_changes=["a"])
    decisions().check_inputs_as_new(one, cast(Any, provider))
    assert provider.asked == [(urn("one"), {}, {"a": 2})]
    assert one.old is old

    def refuse(*_: object) -> None:
        raise StepError("refused")

    with pytest.raises(StepError):
        decisions(on_failures=refuse).check_inputs_as_new(one, cast(Any, provider))
    assert one.old is old


def test_how_old_and_new_differ() -> None:
    old, new = resource("one", inputs={"a": 1}), resource("one", inputs={"a": 2})
    deciding = decisions()
    assert deciding.diff_resource(placed(None, new), None) is None
    assert deciding.diff_resource(placed(old, new), None) == Diff(True, [], False, {"a": "update"}, True)
    assert deciding.diff_resource(placed(old, new, replace_on_changes=["a"]), None) == Diff(
        True, ["a"], False, {"a": "update"}, True
    )
    provider = FakeProvider(Diff(True, ["a"], True, {"a": "update-replace"}))
    assert (
        deciding.diff_resource(placed(old, new, ignore_changes=["i"]), cast(Any, provider)) == provider.said
    )
    assert provider.asked == [(urn("one"), {"a": 1}, {"a": 2}, ["i"])]
    leaves_it = FakeProvider()
    assert deciding.diff_resource(placed(old, new), cast(Any, leaves_it)) == Diff(
        True, [], False, {"a": "update"}, True
    )


def test_a_read_resource_cannot_become_managed() -> None:
    with pytest.raises(
        NeedsCliError, match="managing the resource 'one', which this stack has only read until now, needs"
    ):
        decisions().diff_resource(placed(resource("one", external=True), resource("one")), None)


@pytest.mark.parametrize(
    ("old", "new", "moved"),
    [
        ({"provider": "urn:a::1"}, {"provider": "urn:a::1"}, False),
        ({"provider": "urn:a::1"}, {"provider": "urn:a::2"}, False),
        ({"provider": "urn:a::1"}, {"provider": "urn:b::1"}, True),
        ({"provider": "urn:a::1"}, {"provider": f"urn:b::{values.UNKNOWN_TEXT}"}, False),
        ({"provider": "urn:was::1"}, {"provider": "urn:is::1"}, False),
        ({"provider": "urn:a::1", "custom": True}, {"provider": "urn:a::1", "custom": False}, True),
        ({"provider": "", "custom": False}, {"provider": "", "custom": False}, False),
        ({"provider": "urn:a::1", "custom": False}, {"provider": "urn:b::1", "custom": False}, False),
    ],
)
def test_a_different_provider_replaces_the_resource(
    old: dict[str, Any], new: dict[str, Any], moved: bool
) -> None:
    found = ResourceIndex.from_state("dev", "p", StackState([]))
    found.aliases.taken["urn:was"] = "urn:is"
    deciding = Decisions(StackState([]), found, cast(Any, None), lambda *_: None)
    diff = deciding.diff_resource(placed(resource("one", **old), resource("one", **new)), None)
    assert diff == (Diff(True, ["provider"]) if moved else Diff(False, by_engine=True))


def test_a_resource_is_replaced_with_the_one_it_is_deleted_with() -> None:
    deciding = decisions()
    one = placed(resource("one"), resource("one", deleted_with=urn("host")))
    assert deciding.diff_resource(one, None) == Diff(False, by_engine=True)
    deciding.deleted_first[urn("host")] = Cascade([])
    assert deciding.diff_resource(one, None) == Diff(True, ["deletedWith"])
    assert deciding.diff_resource(placed(resource("two"), resource("two")), None) == Diff(
        False, by_engine=True
    )


FIRST = Diff(True, ["a"], delete_before_replace=True)


@pytest.mark.parametrize(
    ("diff", "of_old", "of_goal", "first"),
    [
        (FIRST, {}, {}, True),
        (Diff(True, ["a"]), {}, {}, False),
        (Diff(True, ["a"]), {}, {"delete_before_replace": True}, True),
        (FIRST, {}, {"delete_before_replace": False}, False),
        (Diff(True, [], True), {}, {}, False),
        (Diff(False, ["a"], True), {}, {}, False),
        (FIRST, {"pending_replacement": True}, {}, False),
    ],
)
def test_when_the_old_resource_is_deleted_first(
    diff: Diff, of_old: dict[str, Any], of_goal: dict[str, Any], first: bool
) -> None:
    old = resource("one", **of_old)
    assert decisions(old).find_cascade(placed(old, resource("one"), **of_goal), diff) == (
        [old] if first else []
    )


def test_a_new_resource_has_no_cascade() -> None:
    assert decisions().find_cascade(placed(None, resource("one")), FIRST) == []


def cascade(*more: Resource, properties_that_force_replacement: tuple[str, ...] = ("on",)) -> list[str]:
    root = resource("root")
    found = decisions(root, *more, providers=FakeProviders(*properties_that_force_replacement))
    return [urns.name_of(one.urn) for one in found.find_cascade(placed(root, resource("root")), FIRST)]


def on(name: str, *of: str, key: str = "on", **more: Any) -> Resource:
    """A resource whose input `key` comes from others."""
    depends = {"property_dependencies": {key: [urn(one) for one in of]}, "inputs": {key: "x", "else": "y"}}
    return resource(name, **(depends | more))


@pytest.mark.parametrize(
    ("more", "goes"),
    [
        ([on("user", "root")], ["user", "root"]),
        ([on("user", "root"), on("last", "user")], ["last", "user", "root"]),
        # Its provider would take the change in place.
        ([on("user", "root", key="of")], ["root"]),
        # In between one that stays: what depends on that depends on nothing that goes.
        ([on("user", "root", key="of"), on("last", "user")], ["root"]),
        # But what goes is found also behind one that only depends on it.
        ([resource("middle", "root"), on("last", "root", dependencies=[urn("middle")])], ["last", "root"]),
        ([resource("ordered", "root")], ["root"]),
        ([on("user", "root", inputs={"else": "y"})], ["root"]),
        ([on("user", "root", custom=False)], ["root"]),
        ([on("user", "root", external=True)], ["root"]),
        ([on("user", "root", delete=True)], ["root"]),
        ([on("apart", "elsewhere")], ["root"]),
        ([resource("guest", deleted_with=urn("root"))], ["guest", "root"]),
        ([resource("served", provider=f"{urn('root')}::1")], ["served", "root"]),
    ],
)
def test_dependents_that_must_be_replaced_are_deleted_first(more: list[Resource], goes: list[str]) -> None:
    assert cascade(*more) == goes


def test_a_dependents_provider_is_asked_with_unknown_inputs() -> None:
    root = resource("root")
    user = on("user", "root", ignore_changes=["i"], replace_on_changes=["on"])
    providers = FakeProviders()
    found = decisions(root, user, providers=providers).find_cascade(placed(root, resource("root")), FIRST)
    assert found == [user, root]
    assert providers.asked == [("user", {"on": "x", "else": "y"}, {"on": UNKNOWN, "else": "y"}, ["i"])]
    assert providers.loaded == 2
    assert cascade(on("user", "root", replace_on_changes=["else"]), properties_that_force_replacement=()) == [
        "root"
    ]


def test_registered_dependents_are_not_deleted() -> None:
    root, user = resource("root"), on("user", "root")
    state = StackState([root, user])
    found = ResourceIndex.from_state("dev", "p", state)
    found.add_registration(goal("user"), PROVIDER)
    deciding = Decisions(state, found, cast(Any, FakeProviders("on")), lambda *_: None)
    assert deciding.find_cascade(placed(root, resource("root")), FIRST) == [root]


def test_a_protected_dependent_stops_the_replacement() -> None:
    with pytest.raises(EngineError) as caught:
        cascade(on("user", "root", protect=True))
    assert str(caught.value) == (
        f'unable to replace resource "{urn("user")}" as part of replacing "{urn("root")}" as it is currently marked for '
        "protection. To unprotect the resource, either remove the `protect` flag from the resource in your Pulumi program "
        f"and run `pulumi up`, or use the command:\n`pulumi state unprotect '{urn('user')}'`"
    )
