"""botocore's own data without its documentation: the same service all the same."""

from __future__ import annotations

from typing import Any

import botocore.session  # type: ignore[import-untyped]  # ships no types
import pytest

from flux_training.clients.s3_data import S3Data


def client(session: Any, region: str) -> Any:
    return session.create_client(
        "s3", region_name=region, aws_access_key_id="id", aws_secret_access_key="secret"
    )


def slim() -> Any:
    session = botocore.session.Session()
    session.register_component("data_loader", S3Data())
    return session


def texts(part: Any) -> list[str]:
    """Every documentation in a model."""
    if isinstance(part, list):
        return [text for item in part for text in texts(item)]
    if not isinstance(part, dict):
        return []
    own = part.get("documentation")
    return ([own] if isinstance(own, str) else []) + [
        text for value in part.values() for text in texts(value)
    ]


def undocumented(part: Any) -> Any:
    if isinstance(part, list):
        return [undocumented(item) for item in part]
    if not isinstance(part, dict):
        return part
    return {
        key: "" if key == "documentation" and isinstance(value, str) else undocumented(value)
        for key, value in part.items()
    }


@pytest.mark.parametrize("kind", ["service-2", "endpoint-rule-set-1", "paginators-1", "waiters-2"])
def test_only_the_documentation_is_missing(kind: str) -> None:
    whole = botocore.session.Session().get_component("data_loader").load_service_model("s3", kind)
    ours = S3Data().load_service_model("s3", kind)
    assert set(texts(ours)) <= {""}
    assert ours == undocumented(whole)
    if kind == "service-2":
        assert sum(map(len, texts(whole))) > 100_000  # else there is nothing to leave out


@pytest.mark.parametrize("region", ["us-east-1", "eu-central-1", "cn-north-1", "auto"])
def test_a_bucket_has_the_address_that_it_has_with_all_of_the_data(region: str) -> None:
    addresses = [
        client(session, region).generate_presigned_url("get_object", {"Bucket": "bucket", "Key": "a/key"})
        for session in (botocore.session.Session(), slim())
    ]
    assert addresses[0].partition("?")[0] == addresses[1].partition("?")[0]


def test_other_services_are_not_known() -> None:
    with pytest.raises(botocore.exceptions.UnknownServiceError):
        slim().create_client("sqs", region_name="us-east-1")
