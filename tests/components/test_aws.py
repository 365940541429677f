"""AWS and image builds with Pulumi's mocks: requests to the plugins, secrets, and what the IAM policy allows."""

import asyncio
import fnmatch
import json
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pulumi
import pytest
from pulumi.runtime import mocks

from components.aws import AwsArgs, AwsStorage, check_package, lifecycle, only_https
from components.images import TrainerImages, build_environment, folder_digest, parse_built_image
from components.pipeline import PipelineContext, TrainingPipeline
from flux_training.training.errors import FluxError
from flux_training.training.runs.node_rights import node_policy
from flux_training.training.runs.run import Layout
from flux_training.training.settings import ImageSettings, StackSettings

# pulumi-aws warns of its own deprecated classes when it is imported.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")

SECRET = "canary-aws-made-77e1"
ARGS = AwsArgs("weights", Layout("team/"), "eu-west-1", "p/s", {"team/datasets/": 9}, 1)
IMAGE = ImageSettings.model_validate(
    {"build": True, "repository": "r.io/me/x", "kelpieSha256": "a" * 64, "vscodeSha256": "b" * 64}
)
BUILT = f"worker=r.io/me/x@sha256:{'1' * 64}\ndev=r.io/me/x@sha256:{'2' * 64}\n"
BUILT_WITH_QWEN = f"worker=r.io/me/x@sha256:{'3' * 64}\ndev=r.io/me/x@sha256:{'4' * 64}\n"
QWEN = "Qwen/Qwen-Image"


class Recorded(pulumi.runtime.Mocks):
    """Answers as the plugins would, and records the inputs by (type, name)."""

    def __init__(self) -> None:
        self.made: dict[tuple[str, str], dict[str, Any]] = {}

    def new_resource(self, args: pulumi.runtime.MockResourceArgs) -> tuple[str, dict[str, Any]]:
        self.made[args.typ, args.name] = dict(args.inputs)
        outputs = dict(args.inputs)
        if args.typ == "aws:iam/accessKey:AccessKey":
            outputs["secret"] = SECRET
        if args.typ == "aws:iam/user:User":
            outputs["name"] = "nodes-1a2b"
        if args.typ == "command:local:Command":
            outputs["stdout"] = BUILT_WITH_QWEN if args.inputs["environment"]["MODEL_ID"] == QWEN else BUILT
        return f"{args.name}-id", outputs

    def call(self, _args: pulumi.runtime.MockCallArgs) -> dict[str, Any]:
        return {}

    def of(self, kind: str) -> list[dict[str, Any]]:
        return [inputs for (made, _), inputs in self.made.items() if made.endswith(f":{kind}")]


@pytest.fixture
def recorded() -> Iterator[Recorded]:
    asyncio.set_event_loop(asyncio.new_event_loop())
    recorded = Recorded()
    mocks.set_mocks(recorded, project="flux-training", stack="test")
    yield recorded
    mocks.set_mocks(None)  # type: ignore[arg-type]  # the SDK has no other way to end


class Marked(pulumi.ComponentResource):
    """Takes the place of the bucket."""

    def __init__(self) -> None:
        super().__init__("test:index:Marked", "bucket")


def on_aws(args: AwsArgs = ARGS) -> dict[str, Any]:
    """The keys for the container group, and whether they are secret."""
    seen: dict[str, Any] = {}

    @pulumi.runtime.test
    def program() -> pulumi.Output[Any]:
        keys = AwsStorage("aws", args, Marked()).keys
        secret = pulumi.Output.from_input(keys.is_secret())
        return pulumi.Output.all(keys, secret).apply(lambda pair: seen.update(keys=pair[0], secret=pair[1]))

    program()
    return seen


def test_the_bucket_is_private_encrypted_and_has_lifecycle_rules(recorded: Recorded) -> None:
    on_aws()
    (access,) = recorded.of("BucketPublicAccessBlock")
    assert {name: value for name, value in access.items() if isinstance(value, bool)} == dict.fromkeys(
        ["blockPublicAcls", "blockPublicPolicy", "ignorePublicAcls", "restrictPublicBuckets"], True
    )
    (encryption,) = recorded.of("BucketServerSideEncryptionConfiguration")
    assert encryption["rules"][0]["applyServerSideEncryptionByDefault"] == {"sseAlgorithm": "AES256"}
    (owner,) = recorded.of("BucketOwnershipControls")
    assert owner["rule"] == {"objectOwnership": "BucketOwnerEnforced"}
    (rules,) = recorded.of("BucketLifecycleConfiguration")
    assert rules["rules"][0]["abortIncompleteMultipartUpload"] == {"daysAfterInitiation": 7}
    assert [rule["filter"]["prefix"] for rule in rules["rules"][1:]] == ["team/datasets/"]
    assert {inputs["bucket"] for inputs in recorded.made.values() if "bucket" in inputs} == {"weights"}


def test_a_bucket_that_others_use_keeps_its_own_settings(recorded: Recorded) -> None:
    on_aws(replace(ARGS, whole=False))
    assert {kind.rpartition(":")[2] for kind, _name in recorded.made if "aws:s3" in kind} == set()
    assert recorded.of("AccessKey")


def test_the_nodes_keys_are_secret_and_belong_to_their_user(recorded: Recorded) -> None:
    seen = on_aws()
    assert seen["keys"] == {"accessKeyId": "nodes-1-id", "secretAccessKey": SECRET}
    assert seen["secret"] is True
    (policy,) = recorded.of("UserPolicy")
    assert policy["user"] == "nodes-1a2b"
    assert json.loads(policy["policy"]) == node_policy("weights", Layout("team/"))
    assert recorded.of("AccessKey") == [{"user": "nodes-1a2b"}]


def test_a_higher_rotate_creates_another_key_of_the_same_user(recorded: Recorded) -> None:
    on_aws()
    first = set(recorded.made)
    recorded.made.clear()
    on_aws(AwsArgs("weights", Layout("team/"), "eu-west-1", "p/s", {"team/datasets/": 9}, 2))
    assert {name for kind, name in set(recorded.made) - first} == {"nodes-2"}
    assert {name for kind, name in first - set(recorded.made)} == {"nodes-1"}


def test_no_key_is_an_input_of_the_plugin(recorded: Recorded) -> None:
    """pulumi-aws gets its keys from the environment: the state stores inputs."""
    on_aws()
    (provider,) = [inputs for (kind, _), inputs in recorded.made.items() if kind == "pulumi:providers:aws"]
    assert provider["region"] == "eu-west-1"
    assert not {"accessKey", "secretKey", "token", "profile"} & set(provider)


# ---- the IAM policy

BUCKET = "arn:aws:s3:::weights"
OUTPUT = f"{BUCKET}/team/runs/cat/0a/output"
REQUESTS = [
    # action, resource, condition keys, allowed
    ("s3:ListBucket", BUCKET, {"s3:prefix": "team/datasets/d/"}, True),
    ("s3:ListBucket", BUCKET, {"s3:prefix": "team/runs/cat/0a/output/"}, True),
    ("s3:ListBucket", BUCKET, {"s3:prefix": ""}, False),
    ("s3:ListBucket", BUCKET, {}, False),
    ("s3:ListBucket", BUCKET, {"s3:prefix": "team/"}, False),
    ("s3:ListBucket", BUCKET, {"s3:prefix": "others/runs/"}, False),
    ("s3:ListBucket", "arn:aws:s3:::another", {"s3:prefix": "team/runs/"}, False),
    ("s3:GetObject", f"{BUCKET}/team/datasets/d/1.jpg", {}, True),
    ("s3:GetObject", f"{BUCKET}/team/runs/cat/0a/config/train.yml", {}, True),
    ("s3:GetObject", f"{BUCKET}/team/.flux/owner.json", {}, False),
    ("s3:GetObject", f"{BUCKET}/others/runs/cat/0a/model/x", {}, False),
    ("s3:GetObject", "arn:aws:s3:::another/team/runs/x", {}, False),
    ("s3:PutObject", f"{OUTPUT}/cat_000000010.safetensors", {}, True),
    ("s3:PutObject", f"{BUCKET}/team/runs/cat/0a/model/cat.safetensors", {}, True),
    ("s3:PutObject", f"{BUCKET}/team/runs/cat/0a/config/launch.json", {}, False),
    ("s3:PutObject", f"{BUCKET}/team/runs/cat/0a/claim.json", {}, False),
    ("s3:PutObject", f"{BUCKET}/team/datasets/d/1.jpg", {}, False),
    ("s3:DeleteObject", f"{OUTPUT}/cat_000000010.safetensors", {}, True),
    ("s3:DeleteObject", f"{BUCKET}/team/datasets/d/1.jpg", {}, False),
    ("s3:AbortMultipartUpload", f"{OUTPUT}/cat.safetensors", {}, True),
    ("s3:DeleteBucket", BUCKET, {}, False),
    ("s3:CreateBucket", "arn:aws:s3:::another", {}, False),
    ("s3:ListAllMyBuckets", "*", {}, False),
    ("s3:PutLifecycleConfiguration", BUCKET, {}, False),
    ("s3:PutBucketPolicy", BUCKET, {}, False),
    ("s3:GetBucketPolicy", BUCKET, {}, False),
    ("s3:PutObjectAcl", f"{OUTPUT}/x", {}, False),
    ("s3:GetObjectVersion", f"{OUTPUT}/x", {}, False),
    ("iam:CreateAccessKey", "*", {}, False),
    ("sts:AssumeRole", "*", {}, False),
]


def allows(policy: dict[str, Any], action: str, resource: str, keys: dict[str, str]) -> bool:
    """IAM's rules, as far as these policies need them: a statement allows, none denies; wildcards are `*` and `?`."""
    effects = {
        statement["Effect"]
        for statement in policy["Statement"]
        if _any(statement["Action"], action)
        and _any(statement["Resource"], resource)
        and all(_holds(operator, wanted, keys) for operator, wanted in statement.get("Condition", {}).items())
    }
    return effects == {"Allow"}


def _any(patterns: str | list[str], value: str) -> bool:
    listed = [patterns] if isinstance(patterns, str) else patterns
    return any(fnmatch.fnmatchcase(value, pattern.replace("[", "[[]")) for pattern in listed)


def _holds(operator: str, wanted: dict[str, Any], keys: dict[str, str]) -> bool:
    assert operator in ("StringLike", "Bool"), "the evaluator knows no other operator"
    return all(name in keys and _any(patterns, keys[name]) for name, patterns in wanted.items())


@pytest.mark.parametrize(("action", "resource", "keys", "allowed"), REQUESTS)
def test_the_policy_allows_only_what_a_node_needs(
    action: str, resource: str, keys: dict[str, str], allowed: bool
) -> None:
    assert allows(node_policy("weights", Layout("team/")), action, resource, keys) is allowed


def test_plain_http_is_refused() -> None:
    both = {
        "Statement": [
            *node_policy("weights", Layout("team/"))["Statement"],
            *only_https("weights")["Statement"],
        ]
    }
    for secure, allowed in (("true", True), ("false", False)):
        assert allows(both, "s3:PutObject", f"{OUTPUT}/x", {"aws:SecureTransport": secure}) is allowed


def test_the_same_objects_expire_on_aws_as_elsewhere() -> None:
    args = AwsArgs("b", Layout(""), "r", "p/s", {"runs/a/1/output/a_": 14, "datasets/": 30}, 1)
    found = {rule["filter"]["prefix"]: rule["expiration"]["days"] for rule in lifecycle(args)[1:]}
    assert found == args.retention
    assert [rule["id"] for rule in lifecycle(AwsArgs("b", Layout(""), "r", "p/s", {}, 1))] == [
        "unfinished uploads"
    ]


# ---- images


def built(with_dev: bool, root: Path) -> dict[str, Any]:
    seen: dict[str, Any] = {}

    @pulumi.runtime.test
    def program() -> pulumi.Output[Any]:
        images = TrainerImages("images", IMAGE, IMAGE.model, with_dev, root)
        return pulumi.Output.all(images.worker, images.dev).apply(lambda pair: seen.update(images=pair))

    program()
    return seen


def docker_folder(root: Path) -> Path:
    folder = root / "docker"
    folder.mkdir()
    (folder / "Dockerfile").write_text("FROM a\n")
    (folder / "build.sh").write_text("true\n")
    return root


def test_the_group_gets_the_image_by_its_digest(recorded: Recorded, tmp_path: Path) -> None:
    seen = built(True, docker_folder(tmp_path))
    assert seen["images"] == [f"r.io/me/x@sha256:{'1' * 64}", f"r.io/me/x@sha256:{'2' * 64}"]
    (command,) = recorded.of("Command")
    assert command["create"] == "./docker/build.sh"
    assert command["environment"]["TARGETS"] == "worker dev"


def test_each_cluster_gets_the_image_with_its_model(recorded: Recorded) -> None:
    settings = StackSettings.model_validate(
        {
            "cloud": "salad",
            "storage": {"bucket": "weights"},
            "jobs": {},
            "image": IMAGE,
            "clusters": {"flux": {}, "qwen": {"model": QWEN}, "own": {"image": "my/x:1"}},
            "dev": {"enabled": True, "cluster": "qwen"},
        }
    )
    none = dict.fromkeys(settings.all_clusters, 0)
    context = PipelineContext("p/s", "/home", dict.fromkeys(none, ""), none)

    @pulumi.runtime.test
    def program() -> None:
        TrainingPipeline("training", settings, [], context)

    program()
    commands = {
        name: inputs["environment"] for (kind, name), inputs in recorded.made.items() if "Command" in kind
    }
    assert commands.keys() == {"images", "images-Qwen--Qwen-Image"}
    assert commands["images"] == build_environment(IMAGE, IMAGE.model, with_dev=False)
    with_qwen = commands["images-Qwen--Qwen-Image"]
    assert (with_qwen["MODEL_ID"], with_qwen["TAG_SUFFIX"]) == (QWEN, "-Qwen--Qwen-Image")
    assert with_qwen["TARGETS"] == "worker dev"
    groups = {
        group["name"]: group["image"] for group in recorded.of("ContainerGroup") + recorded.of("DevGroup")
    }
    assert groups == {
        "flux-training-flux": f"r.io/me/x@sha256:{'1' * 64}",
        "flux-training-qwen": f"r.io/me/x@sha256:{'3' * 64}",
        "flux-training-own": "my/x:1",
        "flux-training-qwen-dev": f"r.io/me/x@sha256:{'4' * 64}",
    }


def test_an_image_is_built_only_if_its_folder_changed(recorded: Recorded, tmp_path: Path) -> None:
    root = docker_folder(tmp_path)
    built(False, root)
    (first,) = recorded.of("Command")
    recorded.made.clear()
    for path in (root / "docker").iterdir():
        path.write_bytes(path.read_bytes())
    built(False, root)
    assert recorded.of("Command") == [first]
    recorded.made.clear()
    (root / "docker/build.sh").chmod(0o755)
    built(False, root)
    (changed,) = recorded.of("Command")
    assert changed["triggers"] != first["triggers"]
    assert changed["environment"] == first["environment"]


def test_a_byte_moved_to_another_file_changes_the_digest(tmp_path: Path) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    for folder, parts in ((one, ("ab", "c")), (two, ("a", "bc"))):
        folder.mkdir()
        for name, part in zip(("x", "y"), parts, strict=True):
            (folder / name).write_text(part)
    assert folder_digest(one) != folder_digest(two)


def test_the_build_command_has_no_token_as_input(monkeypatch: pytest.MonkeyPatch) -> None:
    """It inherits HF_TOKEN; the state stores inputs."""
    monkeypatch.setenv("HF_TOKEN", "canary-hf-19aa")
    environment = build_environment(IMAGE, IMAGE.model, with_dev=False)
    assert "canary" not in str(environment)
    assert set(environment) == {
        "REPOSITORY",
        "MODEL_ID",
        "KELPIE_SHA256",
        "VSCODE_VERSION",
        "VSCODE_SHA256",
        "TARGETS",
    }


@pytest.mark.parametrize("output", ["", "worker=r.io/me/x:latest\n", "dev=r@sha256:" + "1" * 64])
def test_a_build_without_a_digest_is_an_error(output: str) -> None:
    with pytest.raises(FluxError, match="without printing the digest of image worker"):
        parse_built_image(output, "worker")


def test_a_missing_aws_package_is_an_error_with_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    check_package()
    monkeypatch.setitem(sys.modules, "pulumi_aws", None)
    with pytest.raises(FluxError, match="`make aws`"):
        check_package()
