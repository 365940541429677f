"""Random pets, and files that are named after them: dynamic providers written in the program itself."""

import binascii
import os
import random

import pulumi
from pulumi import ComponentResource, Input, Output, ResourceOptions
from pulumi.dynamic import CreateResult, DiffResult, ReadResult, Resource, ResourceProvider, UpdateResult

WORDS = ["brave", "calm", "eager", "gentle", "happy", "kind", "lively", "proud", "quick", "shy", "wise"]
ANIMALS = ["ant", "bear", "cat", "dog", "emu", "fox", "gnu", "hen", "ibex", "jay", "koala", "lynx"]


class PetProvider(ResourceProvider):
    def create(self, props):
        words = [random.choice(WORDS) for _ in range(int(props["length"]) - 1)]
        name = "-".join([*words, random.choice(ANIMALS)])
        return CreateResult(id_=binascii.b2a_hex(os.urandom(8)).decode(), outs={**props, "pet": name})

    def diff(self, _id, olds, news):
        changed = [key for key in ("length", "keepers") if olds.get(key) != news.get(key)]
        return DiffResult(changes=bool(changed), replaces=changed)


class Pet(Resource):
    pet: Output[str]
    length: Output[int]

    def __init__(self, name, length: Input[int] = 2, keepers=None, opts=None):
        super().__init__(PetProvider(), name, {"length": length, "keepers": keepers, "pet": None}, opts)


class FileProvider(ResourceProvider):
    def create(self, props):
        os.makedirs(os.path.dirname(props["path"]), exist_ok=True)
        with open(props["path"], "w") as file:
            file.write(props["content"])
        return CreateResult(props["path"], {**props, "size": len(props["content"])})

    def update(self, id, olds, news):
        with open(id, "w") as file:
            file.write(news["content"])
        return UpdateResult({**news, "size": len(news["content"])})

    def diff(self, id, olds, news):
        replaces = ["path"] if olds["path"] != news["path"] else []
        return DiffResult(
            changes=olds["path"] != news["path"] or olds["content"] != news["content"],
            replaces=replaces,
            stables=["path"],
            delete_before_replace=True,
        )

    def read(self, id, props):
        if not os.path.exists(id):
            return ReadResult(None, {})
        with open(id) as file:
            content = file.read()
        return ReadResult(id, {**props, "content": content, "size": len(content)})

    def delete(self, id, props):
        if os.path.exists(id):
            os.remove(id)


class TextFile(Resource):
    path: Output[str]
    content: Output[str]
    size: Output[int]

    def __init__(self, name, path: Input[str], content: Input[str], opts=None):
        super().__init__(FileProvider(), name, {"path": path, "content": content, "size": None}, opts)


class Kennel(ComponentResource):
    """A pet, its name tag and, for the keeper only, its papers."""

    def __init__(self, name, words: int, signature: Input[str], opts=None):
        super().__init__("examples:pets:Kennel", name, {}, opts)
        own = ResourceOptions(parent=self)
        self.pet = Pet(f"{name}-pet", length=words, opts=own)
        self.tag = TextFile(
            f"{name}-tag",
            path=f"pets/{name}/tag.txt",
            content=Output.concat("My name is ", self.pet.pet, ".\n"),
            opts=own,
        )
        self.papers = TextFile(
            f"{name}-papers",
            path=f"pets/{name}/papers.txt",
            content=Output.all(self.pet.pet, signature).apply(lambda found: f"{found[0]}, {found[1]}\n"),
            opts=ResourceOptions(parent=self, depends_on=[self.tag], additional_secret_outputs=["size"]),
        )
        self.register_outputs({"pet": self.pet.pet, "tag": self.tag.path})


config = pulumi.Config()
kennels = {
    name: Kennel(name, words=config.require_int("words"), signature=config.require_secret("signature"))
    for name in (config.get("kennels") or "north,south").split(",")
}

pulumi.export("pets", {name: kennel.pet.pet for name, kennel in kennels.items()})
pulumi.export("tags", [kennel.tag.path for kennel in kennels.values()])
pulumi.export("papers", Output.all(*[kennel.papers.content for kennel in kennels.values()]).apply("".join))
pulumi.export("total", Output.all(*[kennel.tag.size for kennel in kennels.values()]).apply(sum))
pulumi.export("stack", pulumi.get_stack())
