"""Outputs of resources in a program: what depends on what, outputs held by providers, and output types."""

import json

from engine_stack import EngineStack

MIXED = """
import pulumi
from things import FileThing

a, b = (FileThing(name, {"text": name}, None) for name in "ab")
c = FileThing("c", {"text": a.text.apply(lambda _: [b.text])}, None)
d = FileThing("d", {"text": c.text.apply(lambda _: a.length)}, None)
FileThing("e", {"text": a.length}, pulumi.ResourceOptions(depends_on=[c]))
"""

# A dictionary type with a property that is named like a method of dictionaries, as packages have.
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

REFUSED = """
import pulumi
from things import FileThing

bad = FileThing("bad", {"text": object()}, None)
pulumi.export("before", bad.text.apply(lambda text: text + "!"))
pulumi.export("after", bad.urn.recover(lambda error: bad.length))
"""


def test_dependencies_follow_the_values_that_were_used(stack: EngineStack) -> None:
    (stack.folder / "__main__.py").write_text(MIXED)
    stack.up()
    found = stack.resources()
    depends = {
        name: [urn.rpartition("::")[2] for urn in found[name].get("dependencies", [])] for name in "abcde"
    }
    assert depends == {"a": [], "b": [], "c": ["a", "b"], "d": ["a", "c"], "e": ["a", "c"]}
    text = found["e"]["propertyDependencies"]["text"]
    assert [urn.rpartition("::")[2] for urn in text] == ["a"]


def test_an_output_type_may_have_a_property_named_values(stack: EngineStack) -> None:
    (stack.folder / "__main__.py").write_text(OUTPUT_TYPE)
    stack.up()
    assert json.loads(stack.run("stack", "output", "--json")) == {"values": ["a"]}


def test_outputs_of_a_resource_with_invalid_inputs_fail(stack: EngineStack) -> None:
    (stack.folder / "__main__.py").write_text(REFUSED)
    output = stack.up(code=1)
    assert "unexpected input of type object" in output
    assert "bad" not in stack.resources()
