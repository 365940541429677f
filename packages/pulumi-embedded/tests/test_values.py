"""URNs and property values by themselves: on the wire, compared, shown, marked."""

from typing import Any

import pytest
from google.protobuf import json_format, struct_pb2
from pulumi_embedded.errors import NeedsCliError
from pulumi_embedded.properties import urns, values
from pulumi_embedded.properties.urns import Urn
from pulumi_embedded.properties.values import UNKNOWN, ResourceRef, Secret


@pytest.mark.parametrize("text", ["", "urn:pulumi:a::b::c", "urn:other:a::b::c::d", "a::b::c::d"])
def test_an_invalid_urn_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"is not a URN \(urn:pulumi:<stack>::<project>::<type>::<name>\)"):
        urns.parse_urn(text)


def test_the_parts_of_a_urn() -> None:
    assert urns.parse_urn("urn:pulumi:s::p::a:b:C$d:e:F::n::m") == Urn("s", "p", "a:b:C$d:e:F", "n::m")
    group = urns.make_urn("s", "p", urns.make_urn("s", "p", "", urns.STACK_TYPE, "p-s"), "a:b:C", "g")
    assert group == "urn:pulumi:s::p::a:b:C::g"
    child = urns.make_urn("s", "p", group, "d:e:F", "n::m")
    assert child == "urn:pulumi:s::p::a:b:C$d:e:F::n::m"
    assert (urns.type_of(child), urns.name_of(child)) == ("d:e:F", "n::m")
    assert urns.is_provider("pulumi:providers:aws")
    assert not urns.is_provider("aws:s3:Bucket")
    assert urns.provider_urn("urn:pulumi:s::p::t::n::id") == "urn:pulumi:s::p::t::n"


@pytest.mark.parametrize(
    ("reference", "renamed"),
    [
        ("urn:a", "urn:b"),
        ("urn:a::id", "urn:b::id"),
        ("urn:c", "urn:c"),
        ("urn:c::id", "urn:c::id"),
        ("urn:pulumi:s::p::t::n::id", "urn:new::id"),
        ("urn:pulumi:s::p::t::n", "urn:new"),
        ("", ""),
    ],
)
def test_references_follow_renames(reference: str, renamed: str) -> None:
    assert urns.rename_reference(reference, {"urn:a": "urn:b", "urn:pulumi:s::p::t::n": "urn:new"}) == renamed


def sent(value: Any, *, secrets: bool = True, refs: bool = True) -> Any:
    """What goes over the wire, read by protobuf itself."""
    struct = values.to_struct({"k": value}, secrets=secrets, refs=refs)
    return json_format.MessageToDict(struct)["k"]


def received(value: Any) -> Any:
    """What is made of a message that protobuf itself has written."""
    return values.from_struct(json_format.ParseDict({"k": value}, struct_pb2.Struct()))["k"]


def signed(signature: str, **more: Any) -> dict[str, Any]:
    return {values.SIGNATURE: signature, **more}


@pytest.mark.parametrize(
    ("message", "read"),
    [
        (signed(values.SECRET, value=1), Secret(1)),
        (signed(values.SECRET), Secret(None)),
        (signed(values.OUTPUT, value=1), 1),
        (signed(values.OUTPUT), UNKNOWN),
        (signed(values.OUTPUT, value=1, secret=True), Secret(1)),
        (signed(values.OUTPUT, secret=True), Secret(UNKNOWN)),
        (signed(values.OUTPUT, value=1, secret=False), 1),
        (signed(values.RESOURCE, urn="u"), ResourceRef("u", custom=False)),
        (signed(values.RESOURCE, urn="u", id="i", packageVersion="1"), ResourceRef("u", "i", "1", True)),
        (None, None),
        (True, True),
        ("text", "text"),
        (values.UNKNOWN_TEXT, UNKNOWN),
        ([1, [values.UNKNOWN_TEXT], {"a": None}], [1, [UNKNOWN], {"a": None}]),
        ([], []),
        ({}, {}),
        (1e300, 1e300),
        (1.0, 1),
    ],
)
def test_protobuf_values_are_read(message: Any, read: Any) -> None:
    found = received(message)
    assert values.is_same(found, read)
    assert type(found) is type(read)


@pytest.mark.parametrize(
    ("signature", "words"),
    [
        (values.ASSET, "^an asset or archive as a property needs the Pulumi CLI$"),
        (values.ARCHIVE, "^an asset or archive as a property needs the Pulumi CLI$"),
        ("other", "^a property value with the unknown signature other needs the Pulumi CLI$"),
    ],
)
def test_unsupported_values_need_the_cli(signature: str, words: str) -> None:
    with pytest.raises(NeedsCliError, match=words):
        received(signed(signature))


CUSTOM = ResourceRef("u", "i", "1")
COMPONENT = ResourceRef("u", custom=False)


@pytest.mark.parametrize(
    ("ref", "plain", "bare"),
    [
        (CUSTOM, signed(values.RESOURCE, urn="u", id="i", packageVersion="1"), "i"),
        (ResourceRef("u"), signed(values.RESOURCE, urn="u", id=""), values.UNKNOWN_TEXT),
        (ResourceRef("u", ""), signed(values.RESOURCE, urn="u", id=""), values.UNKNOWN_TEXT),
        (
            ResourceRef("u", UNKNOWN),
            signed(values.RESOURCE, urn="u", id=values.UNKNOWN_TEXT),
            values.UNKNOWN_TEXT,
        ),
        (COMPONENT, signed(values.RESOURCE, urn="u"), "u"),
    ],
)
def test_resource_references_are_sent_in_full_or_as_an_id(ref: ResourceRef, plain: Any, bare: Any) -> None:
    assert sent(ref) == plain
    assert sent(ref, refs=False) == bare
    assert json_format.MessageToDict(values.to_struct({"k": ref}, secrets=True))["k"] == plain
    # Inside of other values, too.
    for refs, seen in ((True, plain), (False, bare)):
        for secrets in (True, False):
            secret = signed(values.SECRET, value=seen) if secrets else seen
            found = sent([{"a": Secret(ref)}, [ref]], refs=refs, secrets=secrets)
            assert found == [{"a": secret}, [seen]]


def test_every_kind_of_value_is_sent() -> None:
    everything = {
        "a": None,
        "b": True,
        "c": 1.5,
        "d": 2,
        "e": "text",
        "f": UNKNOWN,
        "g": [],
        "h": {},
        "i": [[1], {}],
    }
    assert sent(everything) == everything | {"f": values.UNKNOWN_TEXT}
    nested = Secret({"a": [Secret(1)]})
    inner = signed(values.SECRET, value=1)
    assert sent(nested) == signed(values.SECRET, value={"a": [inner]})
    assert sent(nested, secrets=False) == {"a": [1]}


@pytest.mark.parametrize(("value", "found"), [(1e21, 1e21), (1e20, 10**20), (0.5, 0.5), (-1e21, -1e21)])
def test_whole_numbers_are_ints_below_1e21(value: float, found: float) -> None:
    assert (values.int_if_whole(value), type(values.int_if_whole(value))) == (found, type(found))


def test_mask_hides_secrets_at_any_depth() -> None:
    shown = values.mask_secrets({"a": [Secret("x"), UNKNOWN], "b": {"c": CUSTOM}, "d": 1})
    assert shown == {"a": ["[secret]", "[unknown]"], "b": {"c": "u"}, "d": 1}
    assert repr(UNKNOWN) == "UNKNOWN"


@pytest.mark.parametrize(
    ("value", "secret", "unknown"),
    [
        (1, False, False),
        (Secret(1), True, False),
        (Secret(UNKNOWN), True, True),
        ([1, {"a": Secret(1)}], True, False),
        ([1, {"a": UNKNOWN}], False, True),
        ({"a": [Secret(UNKNOWN)]}, True, True),
    ],
)
def test_secrets_and_unknowns_are_found_at_any_depth(value: Any, secret: bool, unknown: bool) -> None:
    assert (values.has_secret(value), values.has_unknown(value)) == (secret, unknown)


@pytest.mark.parametrize(
    ("a", "b", "same"),
    [
        (1, 1.0, True),
        (1, True, False),
        (False, 0, False),
        (None, False, False),
        ("1", 1, False),
        (Secret(1), 1, False),
        (Secret(1), Secret(1), True),
        (Secret(1), Secret(2), False),
        (UNKNOWN, UNKNOWN, True),
        (UNKNOWN, values.UNKNOWN_TEXT, False),
        ([1], [1, 2], False),
        ({"a": [1]}, {"a": [True]}, False),
        ([1, 2], [1, 3], False),
        ([1], {"a": 1}, False),
        (["a"], "a", False),
        ({"a": 1}, {"a": 1, "b": 1}, False),
        ({"a": 1}, {"b": 1}, False),
        ({"a": 1}, {"a": 2}, False),
        (CUSTOM, ResourceRef("u", "i", "1"), True),
        (CUSTOM, COMPONENT, False),
    ],
)
def test_which_values_are_the_same(a: Any, b: Any, same: bool) -> None:
    assert values.is_same(a, b) is same
    assert values.is_same(b, a) is same


def test_outputs_of_secret_inputs_are_secret() -> None:
    inputs = {
        "a": Secret(1),
        "b": {"c": Secret(1), "d": 1},
        "e": [0, Secret(1)],
        "f": {"g": Secret(1)},
        "h": Secret(1),
    }
    outputs = {"a": 1, "b": {"c": 1, "d": 1}, "e": [1], "f": "text", "h": Secret(2), "z": 1}
    marked = values.mark_secrets(outputs, inputs)
    expected = {
        "a": Secret(1),
        "b": {"c": Secret(1), "d": 1},
        "e": Secret([1]),
        "f": Secret("text"),
        "h": Secret(2),
    }
    assert values.is_same(marked, expected | {"z": 1})
    assert outputs["a"] == 1
    # An input that the provider gives no output for does not end the marking.
    assert values.is_same(values.mark_secrets({"b": 1}, {"a": Secret(1), "b": Secret(1)}), {"b": Secret(1)})


def test_unchanged_secrets_keep_their_ciphertext() -> None:
    old = {
        "a": Secret(1, "c1", "s"),
        "b": [Secret(2, "c2", "s")],
        "z": {"k": Secret(3, "c3", "s")},
        "gone": Secret(4),
    }
    new = {"a": Secret(1), "b": [Secret(2), Secret(9)], "z": {"k": Secret(0)}, "come": Secret(5)}
    values.keep_ciphertexts(new, old)
    assert (new["a"].ciphertext, new["a"].salt) == ("c1", "s")
    assert [(one.ciphertext, one.salt) for one in new["b"]] == [("c2", "s"), (None, None)]
    assert (new["z"]["k"].ciphertext, new["come"].ciphertext) == (None, None)
    own = Secret(1, "own", "t")
    values.keep_ciphertexts(own, Secret(1, "c1", "s"))
    assert (own.ciphertext, own.salt) == ("own", "t")
    # What has become something else keeps nothing, and is no reason to fail.
    for now, before in ((Secret(1), 1), (1, Secret(1)), ([1], 1), (1, [1]), ({"a": 1}, [1]), ([1], {"a": 1})):
        values.keep_ciphertexts(now, before)


def test_outputs_are_made_secret_by_name() -> None:
    found = values.make_secret({"a": 1, "b": 2, "c": Secret(3), "d": UNKNOWN}, ["a", "c", "d", "none"])
    assert values.is_same(found, {"a": Secret(1), "b": 2, "c": Secret(3), "d": UNKNOWN})


def test_compact_json_is_formatted_like_pulumi() -> None:
    assert values.compact_json({"b": [1, "ü"], "a": None}) == '{"a":null,"b":[1,"ü"]}'
