"""Lifecycle rules of S3 buckets."""

from pathlib import Path
from typing import Any

import pytest
from botocore.exceptions import ClientError
from localcloud.storage.lifecycle_rules import is_expired_by_rules, load_rules
from localcloud.testing import s3_client


@pytest.fixture(scope="module")
def s3(connection: dict[str, Any]) -> Any:
    client = s3_client(connection)
    client.create_bucket(Bucket="kept")
    return client


def rule(name: str, prefix: str, days: int, **more: Any) -> dict[str, Any]:
    fields = {"ID": name, "Status": "Enabled", "Filter": {"Prefix": prefix}, "Expiration": {"Days": days}}
    return fields | more


def put(s3: Any, *rules: dict[str, Any], bucket: str = "kept") -> None:
    s3.put_bucket_lifecycle_configuration(Bucket=bucket, LifecycleConfiguration={"Rules": list(rules)})


def test_a_new_bucket_has_a_rule_for_unfinished_uploads(s3: Any) -> None:
    s3.create_bucket(Bucket="new-one")
    (only,) = s3.get_bucket_lifecycle_configuration(Bucket="new-one")["Rules"]
    assert only["AbortIncompleteMultipartUpload"] == {"DaysAfterInitiation": 7}


def test_rules_are_returned_as_they_were_set(connection: dict[str, Any], s3: Any) -> None:
    rules = [rule("a", "runs/<&>/", 3), rule("b", "", 9) | {"Status": "Disabled"}]
    put(s3, *rules)
    assert s3.get_bucket_lifecycle_configuration(Bucket="kept")["Rules"] == rules
    stored = load_rules(Path(connection["request_log"]).parent / "s3", "kept")
    assert is_expired_by_rules(stored, "runs/<&>/x", 3.0)
    assert not is_expired_by_rules(stored, "runs/<&>/x", 2.9)
    assert not is_expired_by_rules(stored, "other", 99)


def test_a_recreated_bucket_has_the_default_rule(s3: Any) -> None:
    s3.create_bucket(Bucket="again")
    put(s3, rule("a", "x", 3), bucket="again")
    s3.delete_bucket(Bucket="again")
    s3.create_bucket(Bucket="again")
    (only,) = s3.get_bucket_lifecycle_configuration(Bucket="again")["Rules"]
    assert only["ID"] == "Default Multipart Abort Rule"


def test_a_bucket_without_rules_is_an_error(s3: Any) -> None:
    s3.delete_bucket_lifecycle(Bucket="kept")
    with pytest.raises(ClientError, match="NoSuchLifecycleConfiguration"):
        s3.get_bucket_lifecycle_configuration(Bucket="kept")


@pytest.mark.parametrize(
    ("rules", "code"),
    [
        ([rule("a", "x", 0)], "InvalidArgument"),
        ([rule("a", "x", 1), rule("a", "y", 1)], "InvalidArgument"),
        ([rule(str(number), "x", 1) for number in range(1001)], "InvalidArgument"),
        ([rule("a", "x", 1) | {"Filter": {"Tag": {"Key": "k", "Value": "v"}}}], "NotImplemented"),
        ([{"ID": "a", "Status": "Enabled", "Filter": {"Prefix": "x"}}], "MalformedXML"),
    ],
)
def test_rules_that_r2_refuses_are_refused(s3: Any, rules: list[dict[str, Any]], code: str) -> None:
    with pytest.raises(ClientError) as caught:
        put(s3, *rules)
    assert caught.value.response["Error"]["Code"] == code


def test_rules_of_a_missing_bucket_are_an_error(s3: Any) -> None:
    with pytest.raises(ClientError, match="NoSuchBucket"):
        put(s3, rule("a", "x", 1), bucket="not-there")
