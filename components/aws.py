"""AWS: what keeps the bucket shut and tidy, and a user for the nodes who can do nothing but their job.

The bucket itself is made and marked by components/bucket.py as on every storage: it has to outlive a `destroy` with the results in it
and be taken over by the next `up`, which `aws.s3.Bucket` cannot. Needs the plugin pulumi-aws, so the Pulumi CLI; its keys come
from the environment, as for AWS's own tools. They are not put into the state.
"""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pulumi

from flux_training.training.errors import FluxError
from flux_training.training.runs.node_rights import node_policy
from flux_training.training.runs.retention import ABORT_DAYS, with_our_rules
from flux_training.training.runs.run import Layout


@dataclass(frozen=True)
class AwsArgs:
    """`retention`: how keys begin → days (flux_training/training/runs/retention.py). A raised `rotate` makes new keys for the nodes.

    `whole`: the bucket is this stack's alone (no prefix, not adopted). Policy, encryption and the list of rules belong to the whole
    bucket: where others use it too they are left as they are, and components/bucket.py adds this stack's rules to theirs.
    """

    bucket: str
    layout: Layout
    region: str
    owner: str
    retention: Mapping[str, int]
    rotate: int
    whole: bool = True


def check_package() -> None:
    """Raises FluxError when pulumi-aws is not installed: `make` leaves it out where no stack file names this kind of storage."""
    if importlib.util.find_spec("pulumi_aws") is None:
        raise FluxError(
            "storage.kind is aws, and the package pulumi-aws is not installed",
            "it is by far the largest, and only stacks on AWS need it",
            "type `make aws`, then the same again",
        )


class AwsStorage(pulumi.ComponentResource):
    """`keys` is secret and has the form that components/node_environment.py's `issued_keys` takes."""

    keys: pulumi.Output[dict[str, str]]

    def __init__(
        self, name: str, args: AwsArgs, bucket: pulumi.Resource, opts: pulumi.ResourceOptions | None = None
    ) -> None:
        super().__init__("flux:index:AwsStorage", name, None, opts)
        import pulumi_aws as aws

        provider = aws.Provider("aws", region=args.region, opts=pulumi.ResourceOptions(parent=self))
        self._options = pulumi.ResourceOptions(parent=self, provider=provider, depends_on=[bucket])
        if args.whole:
            # What is left in the bucket after a `destroy` stays shut, and goes on expiring.
            kept = pulumi.ResourceOptions.merge(self._options, pulumi.ResourceOptions(retain_on_delete=True))
            self._shut(aws, args, kept)
            self._tidy(aws, args, kept)
        self.keys = self._node_user(aws, args)
        self.register_outputs({})

    def _shut(self, aws: Any, args: AwsArgs, options: pulumi.ResourceOptions) -> None:
        """Nothing public, no foreign owners, encrypted at rest, and nothing over plain HTTP."""
        aws.s3.BucketPublicAccessBlock(
            "private",
            bucket=args.bucket,
            block_public_acls=True,
            block_public_policy=True,
            ignore_public_acls=True,
            restrict_public_buckets=True,
            opts=options,
        )
        aws.s3.BucketOwnershipControls(
            "owner", bucket=args.bucket, rule={"object_ownership": "BucketOwnerEnforced"}, opts=options
        )
        aws.s3.BucketServerSideEncryptionConfiguration(
            "encryption",
            bucket=args.bucket,
            rules=[{"apply_server_side_encryption_by_default": {"sse_algorithm": "AES256"}}],
            opts=options,
        )
        aws.s3.BucketPolicy(
            "only-https", bucket=args.bucket, policy=json.dumps(only_https(args.bucket)), opts=options
        )

    def _tidy(self, aws: Any, args: AwsArgs, options: pulumi.ResourceOptions) -> None:
        """All rules of the bucket: on AWS it is this stack's alone to say what expires in it."""
        aws.s3.BucketLifecycleConfiguration(
            "retention", bucket=args.bucket, rules=lifecycle(args), opts=options
        )

    def _node_user(self, aws: Any, args: AwsArgs) -> pulumi.Output[dict[str, str]]:
        user = aws.iam.User("nodes", path="/flux/", force_destroy=True, opts=self._options)
        aws.iam.UserPolicy(
            "nodes",
            user=user.name,
            policy=json.dumps(node_policy(args.bucket, args.layout)),
            opts=self._options,
        )
        # Under another name it is another key: the new one is made first, and the old one goes when the group has the new.
        key = aws.iam.AccessKey(f"nodes-{args.rotate}", user=user.name, opts=self._options)
        keys = pulumi.Output.all(accessKeyId=key.id, secretAccessKey=key.secret)
        return pulumi.Output.secret(keys)


def lifecycle(args: AwsArgs) -> list[dict[str, Any]]:
    """The rules as pulumi-aws takes them; unfinished uploads are paid for and seen nowhere, so they always go."""
    rules: list[dict[str, Any]] = [
        {
            "id": "unfinished uploads",
            "status": "Enabled",
            "filter": {"prefix": ""},
            "abort_incomplete_multipart_upload": {"days_after_initiation": ABORT_DAYS},
        }
    ]
    ours = with_our_rules([], args.owner, args.retention) if args.retention else []
    return rules + [
        {
            "id": rule["ID"],
            "status": "Enabled",
            "filter": {"prefix": rule["Filter"]["Prefix"]},
            "expiration": {"days": rule["Expiration"]["Days"]},
        }
        for rule in ours
    ]


def only_https(bucket: str) -> dict[str, Any]:
    """A bucket policy that refuses plain HTTP to everybody."""
    arn = f"arn:aws:s3:::{bucket}"
    return {
        "Version": "2012-10-17",
        "Statement": [
            {
                "Sid": "OnlyHttps",
                "Effect": "Deny",
                "Principal": "*",
                "Action": "s3:*",
                "Resource": [arn, f"{arn}/*"],
                "Condition": {"Bool": {"aws:SecureTransport": "false"}},
            }
        ],
    }
