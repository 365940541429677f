"""A dynamic resource that keeps a note in memory only: enough to write real state."""

import time

from pulumi.dynamic import CreateResult, DiffResult, Resource, ResourceProvider, UpdateResult


class NoteProvider(ResourceProvider):
    serialize_as_secret_always = False

    def __getstate__(self):
        return None

    def create(self, props):
        if props["text"] == "refuse":
            raise Exception("refused")
        if props["text"] == "die":
            time.sleep(30)
        return CreateResult(f"note-{len(props['text'])}", {**props, "length": len(props["text"])})

    def update(self, _id, _olds, news):
        return UpdateResult({**news, "length": len(news["text"])})

    def diff(self, _id, olds, news):
        replaces = ["shelf"] if olds.get("shelf") != news.get("shelf") else []
        return DiffResult(replaces=replaces, delete_before_replace=True)


class Note(Resource):
    length: object

    def __init__(self, name, text, shelf="a", tags=None, opts=None):
        super().__init__(
            NoteProvider(), name, {"text": text, "shelf": shelf, "tags": tags or {}, "length": None}, opts
        )
