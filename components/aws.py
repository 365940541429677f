"""AWS resources: settings that keep the bucket private and delete expired objects, and an IAM user for the nodes.

components/bucket.py creates the bucket and writes its owner mark, on AWS as on every other storage: unlike `aws.s3.Bucket`, it
keeps the results when the stack is destroyed and adopts them at the next `up`. This module needs the plugin pulumi-aws and
therefore the Pulumi CLI. The AWS keys come from the environment, as for AWS's own tools, and are not stored in the state.
"""

import importlib.util
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pulumi

from flux_training.training.errors import FluxError
from flux_training.training.runs.node_rights import node_policy
from flux_training.training.runs.retention import ABORT_DAYS, replace_own_rules
from flux_training.training.runs.run import Layout


@dataclass(frozen=True)
class AwsArgs:
    """`retention`: days by key prefix. A higher `rotate` issues new keys for the nodes.

    `whole`: this stack alone uses the bucket (no prefix, not adopted). Otherwise the settings of the bucket as a whole are not
    changed, and components/bucket.py adds this stack's lifecycle rules to the others.
    """

    bucket: str
    layout: Layout
    region: str
    owner: str
    retention: Mapping[str, int]
    rotate: int
    whole: bool = True


def check_package() -> None:
    """Raise FluxError if the package pulumi-aws is not installed. `make` installs it only if a stack file uses AWS."""
    if importlib.util.find_spec("pulumi_aws") is None:
        raise FluxError(
            "storage.kind is aws, but the package pulumi-aws is not installed",
            "it is large, so it is installed only for stacks that use AWS",
            "run `make aws`, then this command again",
        )


class AwsStorage(pulumi.ComponentResource):
    """The AWS resources of a stack.

    `keys`, a secret output, has the nodes' keys in the form that `issued_keys` of components/container_group.py accepts.
    """

    keys: pulumi.Output[dict[str, str]]

    def __init__(
        self, name: str, args: AwsArgs, bucket: pulumi.Resource, opts: pulumi.ResourceOptions | None = None
    ) -> None:
        super().__init__("flux:index:AwsStorage", name, None, opts)
        import pulumi_aws as aws

        provider = aws.Provider("aws", region=args.region, opts=pulumi.ResourceOptions(parent=self))
        self._options = pulumi.ResourceOptions(parent=self, provider=provider, depends_on=[bucket])
        if args.whole:
            # These settings stay when the stack is destroyed, so that the remaining results stay private and still expire.
            kept = pulumi.ResourceOptions.merge(self._options, pulumi.ResourceOptions(retain_on_delete=True))
            self._block_public_access(aws, args, kept)
            self._set_lifecycle_rules(aws, args, kept)
        self.keys = self._node_user(aws, args)
        self.register_outputs({})

    def _block_public_access(self, aws: Any, args: AwsArgs, options: pulumi.ResourceOptions) -> None:
        """Block public access, enforce bucket-owner ownership, encrypt at rest, and refuse plain HTTP."""
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

    def _set_lifecycle_rules(self, aws: Any, args: AwsArgs, options: pulumi.ResourceOptions) -> None:
        """Sets all lifecycle rules of the bucket."""
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
        # The access key's resource name contains the rotation number, so a rotation creates the new key first and deletes the
        # old key only after the container group uses the new one.
        key = aws.iam.AccessKey(f"nodes-{args.rotate}", user=user.name, opts=self._options)
        keys = pulumi.Output.all(accessKeyId=key.id, secretAccessKey=key.secret)
        return pulumi.Output.secret(keys)


def lifecycle(args: AwsArgs) -> list[dict[str, Any]]:
    """The lifecycle rules in pulumi-aws's form.

    Unfinished multipart uploads always expire: they cost money and are not listed.
    """
    rules: list[dict[str, Any]] = [
        {
            "id": "unfinished uploads",
            "status": "Enabled",
            "filter": {"prefix": ""},
            "abort_incomplete_multipart_upload": {"days_after_initiation": ABORT_DAYS},
        }
    ]
    ours = replace_own_rules([], args.owner, args.retention) if args.retention else []
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
    """A bucket policy that refuses plain HTTP."""
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
