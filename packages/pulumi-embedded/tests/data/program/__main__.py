import os

import pulumi
from components.note import Note

step = os.environ.get("STEP", "1")
config = pulumi.Config()


class Shelf(pulumi.ComponentResource):
    def __init__(self, name):
        super().__init__("fixture:index:Shelf", name)
        own = pulumi.ResourceOptions(parent=self)
        first = Note(
            "first",
            "hello" if step == "1" else "hello again",
            opts=own,
            tags={"n": 3, "deep": {"list": [1, 2.5, "x", None, True]}},
        )
        second = Note(
            "second",
            first.length.apply(lambda n: f"{n} letters"),
            shelf="a" if step == "1" else "b",
            opts=pulumi.ResourceOptions(parent=self, depends_on=[first]),
        )
        kept = Note(
            "kept",
            config.require_secret("token"),
            opts=pulumi.ResourceOptions(parent=self, protect=True, additional_secret_outputs=["length"]),
        )
        self.register_outputs({"second": second.id})
        pulumi.export("second", second.id)
        pulumi.export("kept", kept.id)
        pulumi.export("plain", {"a": [1, "b"]})


Shelf("shelf")
if step == "3":
    Note("bad", "refuse")
