"""A dynamic resource whose cloud is a folder: `cloud/<name>.json`, and a line in `cloud/calls.log` for each call."""

import json
import os
import pathlib
import time

from pulumi.dynamic import (
    CheckFailure,
    CheckResult,
    CreateResult,
    DiffResult,
    ReadResult,
    Resource,
    ResourceProvider,
    UpdateResult,
)

CLOUD = pathlib.Path("cloud")


def call(what, name):
    CLOUD.mkdir(exist_ok=True)
    with (CLOUD / "calls.log").open("a") as log:
        log.write(f"{what} {name}\n")


def wait_for(gate):
    """Until the test opens the gate, or has gone."""
    call("wait", gate)
    while not (CLOUD / gate).exists() and CLOUD.exists():
        time.sleep(0.01)


def say(urn, text):
    """A message into the resource's row, as a provider with much to do would send."""
    import sys

    import grpc
    from pulumi.runtime.proto import engine_pb2, engine_pb2_grpc

    with grpc.insecure_channel(sys.argv[1]) as channel:
        request = engine_pb2.LogRequest(severity=engine_pb2.INFO, message=text, urn=urn, ephemeral=True)
        engine_pb2_grpc.EngineStub(channel).Log(request)


class FileThingProvider(ResourceProvider):
    serialize_as_secret_always = False

    def __getstate__(self):
        return None

    def configure(self, req):
        self.config = req.config

    def check(self, _olds, news):
        failures = []
        if news.get("text") == "wrong":
            failures = [CheckFailure("text", "must not be wrong"), CheckFailure("", "is bad as a whole")]
        return CheckResult(news, failures)

    def diff(self, _id, olds, news):
        replaces = [key for key in ("kind", "on") if key in news and olds.get(key) != news.get(key)]
        return DiffResult(replaces=replaces, delete_before_replace=bool(news.get("dbr")))

    def create(self, props):
        name, text = props["name"], props.get("text")
        if props.get("gate"):
            wait_for(props["gate"])
        if text == "refuse":
            raise Exception("the cloud said no")
        if text == "bug":
            raise KeyError("nothing")
        for text in props.get("says", []):
            say(props["urn"], text)
        made = CLOUD / f"{name}.json"
        call("adopt" if made.exists() else "create", name)
        made.write_text(json.dumps({"text": text}))
        if text == "die" or props.get("dies"):
            os._exit(3)
        known = {"token": self.config.get("token")} if props.get("tell_token") else {}
        return CreateResult(f"id-{name}", {**props, **known, "length": len(str(text))})

    def update(self, _id, _olds, news):
        call("update", news["name"])
        if news.get("text") == "refuse":
            raise Exception("the cloud said no")
        (CLOUD / f"{news['name']}.json").write_text(json.dumps({"text": news.get("text")}))
        return UpdateResult({**news, "length": len(str(news.get("text")))})

    def delete(self, _id, props):
        call("delete", props["name"])
        if props.get("sticky"):
            raise Exception("it sticks")
        if props.get("gate_of_delete"):
            wait_for(props["gate_of_delete"])
        (CLOUD / f"{props['name']}.json").unlink(missing_ok=True)

    def read(self, id_, props):
        made = CLOUD / f"{props['name']}.json"
        if not made.exists():
            return ReadResult("", {})
        text = json.loads(made.read_text())["text"]
        inputs = {key: value for key, value in props.items() if key not in ("length", "token")}
        return ReadResult(id_, {**props, "text": text, "length": len(str(text))}, {**inputs, "text": text})


class FileThing(Resource, module="test", name="Thing"):
    def __init__(self, name, props, opts):
        super().__init__(
            FileThingProvider(), name, {"name": name, **props, "length": None, "token": None}, opts
        )
