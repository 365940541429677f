"""A program that declares what `spec.json` says: the tests write that file."""

import json
import pathlib
import sys

import pulumi
from things import FileThing

SPEC = json.loads(pathlib.Path("spec.json").read_text())
made: dict[str, pulumi.Resource] = {}


def value_of(value):
    """`{"$ref": [thing, output]}` is another's output, `{"$secret": x}` a secret, `{"$config": key}` configuration, `{"$concat": [x, y]}` both in a row."""
    if not isinstance(value, dict):
        return value
    if "$ref" in value:
        name, output = value["$ref"]
        return getattr(made[name], output)
    if "$secret" in value:
        return pulumi.Output.secret(value["$secret"])
    if "$config" in value:
        return pulumi.Config().require_secret(value["$config"])
    if "$concat" in value:
        return pulumi.Output.concat(*value["$concat"])
    return {key: value_of(item) for key, item in value.items()}


def options_of(spec):
    options = dict(spec.get("options", {}))
    for key in ("parent", "deleted_with"):
        if key in options:
            options[key] = made[options[key]]
    if "depends_on" in options:
        options["depends_on"] = [made[name] for name in options["depends_on"]]
    if "provider" in options:
        options["provider"] = pulumi.ProviderResource("pulumi-python", "mine", value_of(options["provider"]))
    if "aliases" in options:
        options["aliases"] = [pulumi.Alias(**alias) for alias in options["aliases"]]
    return pulumi.ResourceOptions(**options)


class Group(pulumi.ComponentResource):
    def __init__(self, name, opts):
        super().__init__("test:index:Group", name, None, opts)
        self.register_outputs({"called": name})


for name, spec in SPEC.get("things", {}).items():
    if spec.get("group"):
        made[name] = Group(name, options_of(spec))
    else:
        made[name] = FileThing(
            name, {key: value_of(item) for key, item in spec.items() if key != "options"}, options_of(spec)
        )

for name, value in SPEC.get("exports", {}).items():
    pulumi.export(name, value_of(value))
for line in SPEC.get("prints", []):
    print(line)
for line in SPEC.get("errors", []):
    pulumi.log.error(line)
if "raise" in SPEC:
    raise ValueError(SPEC["raise"])
if "exit" in SPEC:
    sys.exit(SPEC["exit"])
