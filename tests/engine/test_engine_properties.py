"""A property waits in one future, and tells all that the SDK's four would."""

from __future__ import annotations

from engine_stack import Stack

# What the SDK adds to the dependencies of one property must not come to another's: `c` is made of a value that holds `b`.
MIXED = """
import pulumi
from things import Thing

a, b = (Thing(name, {"text": name}, None) for name in "ab")
c = Thing("c", {"text": a.text.apply(lambda _: [b.text])}, None)
d = Thing("d", {"text": c.text.apply(lambda _: a.length)}, None)
Thing("e", {"text": a.length}, pulumi.ResourceOptions(depends_on=[c]))
"""

ONE_FUTURE = """
import asyncio
import pulumi
from things import Thing

thing = Thing("one", {"text": "a"}, None)
assert type(thing.text._data) is asyncio.get_event_loop().create_future().__class__, type(thing.text._data)
assert thing.text._data not in pulumi.runtime.settings.SETTINGS.outputs
pulumi.export("text", thing.text)
"""

REFUSED = """
import pulumi
from things import Thing

bad = Thing("bad", {"text": object()}, None)
pulumi.export("text", bad.text.apply(lambda text: text + "!"))
"""


def test_what_one_property_depends_on_is_its_own(stack: Stack) -> None:
    (stack.folder / "__main__.py").write_text(MIXED)
    stack.up()
    found = stack.resources()
    depends = {
        name: [urn.rpartition("::")[2] for urn in found[name].get("dependencies", [])] for name in "abcde"
    }
    assert depends == {"a": [], "b": [], "c": ["a", "b"], "d": ["a", "c"], "e": ["a", "c"]}
    text = found["e"]["propertyDependencies"]["text"]
    assert [urn.rpartition("::")[2] for urn in text] == ["a"]


def test_a_property_is_one_future_that_nobody_waits_for(stack: Stack) -> None:
    (stack.folder / "__main__.py").write_text(ONE_FUTURE)
    stack.up()
    assert stack.run("stack", "output", "text").strip() == "a"


def test_a_property_of_what_cannot_be_registered_fails_with_it(stack: Stack) -> None:
    (stack.folder / "__main__.py").write_text(REFUSED)
    output = stack.up(code=1)
    assert "unexpected input of type object" in output
    assert "bad" not in stack.resources()
