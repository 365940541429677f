"""A property is what it came to; whoever asks gets a future that tells all that the SDK's four would."""

from __future__ import annotations

import base64
import json

from engine_stack import EngineStack

# What the SDK adds to the dependencies of one property must not come to another's: `c` is made of a value that holds `b`.
MIXED = """
import pulumi
from things import Thing

a, b = (Thing(name, {"text": name}, None) for name in "ab")
c = Thing("c", {"text": a.text.apply(lambda _: [b.text])}, None)
d = Thing("d", {"text": c.text.apply(lambda _: a.length)}, None)
Thing("e", {"text": a.length}, pulumi.ResourceOptions(depends_on=[c]))
"""

ASKED = """
import asyncio
import pulumi
from things import Thing

early, late = Thing("early", {"text": "a"}, None), Thing("late", {"text": "b"}, None)
assert isinstance(early.text, pulumi.Output)
assert early.text._asked is None and not vars(early.text), "nothing is made for a property that nobody asks for"
asked = early.text._data
assert type(asked) is type(asyncio.get_event_loop().create_future()) and asked is early.text._data
assert asked not in pulumi.runtime.settings.SETTINGS.outputs

def after(_urn):
    # Both are registered by now: one was asked before that, the other is asked for the first time.
    return pulumi.Output.all(early.text, late.text, early.length, late.text)

pulumi.export("all", pulumi.Output.all(early.urn, late.urn).apply(after))
pulumi.export("secret", Thing("own", {"text": pulumi.Output.secret("c")}, None).text.is_secret())
"""

NO_CIRCLES = """
import gc
import pulumi

gc.collect()
gc.disable()
for _ in range(1000):
    pulumi.contains_unknowns({"a": [1, {"b": None}]})
assert gc.collect() < 1000, "each call left something for the garbage collector"
assert pulumi.contains_unknowns([{"a": (), "b": [pulumi.UNKNOWN]}])
assert pulumi.contains_unknowns(pulumi.UNKNOWN)
same, itself = [], []
itself += [same, same, itself]
assert not pulumi.contains_unknowns(itself)
"""

# Types that packages bring: a dictionary with a property that has the name of a dictionary's method.
OUTPUT_TYPE = """
import pulumi

@pulumi.output_type
class Filter(dict):
    def __init__(self, *, values: list):
        pulumi.set(self, "values", values)

    @property
    @pulumi.getter
    def values(self) -> list:
        return pulumi.get(self, "values")

given = pulumi.Output.from_input("a").apply(lambda text: Filter(values=[text]))
pulumi.export("values", given.apply(lambda found: found.values))
"""

CAPTURED = """
import pulumi
from pulumi.dynamic import CreateResult, Resource, ResourceProvider
from things import Thing

thing = Thing("one", {"text": "hello"}, None)

class Capturing(ResourceProvider):
    serialize_as_secret_always = False

    def create(self, props):
        return CreateResult("id", {"got": thing.text.get()})

class Captures(Resource, module="test", name="Captures"):
    got: pulumi.Output[str]

    def __init__(self, name):
        super().__init__(Capturing(), name, {"got": None})

pulumi.export("got", thing.urn.apply(lambda _: Captures("captures").got))
"""

REFUSED = """
import pulumi
from things import Thing

bad = Thing("bad", {"text": object()}, None)
pulumi.export("before", bad.text.apply(lambda text: text + "!"))
pulumi.export("after", bad.urn.recover(lambda error: bad.length))
"""


def test_what_one_property_depends_on_is_its_own(stack: EngineStack) -> None:
    (stack.folder / "__main__.py").write_text(MIXED)
    stack.up()
    found = stack.resources()
    depends = {
        name: [urn.rpartition("::")[2] for urn in found[name].get("dependencies", [])] for name in "abcde"
    }
    assert depends == {"a": [], "b": [], "c": ["a", "b"], "d": ["a", "c"], "e": ["a", "c"]}
    text = found["e"]["propertyDependencies"]["text"]
    assert [urn.rpartition("::")[2] for urn in text] == ["a"]


def test_a_property_becomes_a_future_when_somebody_asks_before_or_after_it_is_known(
    stack: EngineStack,
) -> None:
    (stack.folder / "__main__.py").write_text(ASKED)
    stack.up()
    assert json.loads(stack.run("stack", "output", "--json")) == {"all": ["a", "b", 1, "b"], "secret": True}


def test_looking_for_unknowns_leaves_no_circles(stack: EngineStack) -> None:
    (stack.folder / "__main__.py").write_text(NO_CIRCLES)
    stack.up()


def test_a_value_may_have_a_property_named_values(stack: EngineStack) -> None:
    (stack.folder / "__main__.py").write_text(OUTPUT_TYPE)
    stack.up()
    assert json.loads(stack.run("stack", "output", "--json")) == {"values": ["a"]}


def test_a_provider_may_hold_a_property_as_the_sdk_pickles_it(stack: EngineStack) -> None:
    (stack.folder / "__main__.py").write_text(CAPTURED)
    stack.up()
    assert json.loads(stack.run("stack", "output", "--json")) == {"got": "hello"}
    pickled = base64.b64decode(stack.resources()["captures"]["inputs"]["__provider"])
    assert b"pulumi.output" in pickled
    assert b"Property" not in pickled  # else the CLI, without our runner, would see another provider


def test_a_property_of_what_cannot_be_registered_fails_with_it(stack: EngineStack) -> None:
    (stack.folder / "__main__.py").write_text(REFUSED)
    output = stack.up(code=1)
    assert "unexpected input of type object" in output
    assert "bad" not in stack.resources()
