"""Public clients against the local cloud: salad-cloud-sdk, boto3, obstore, rclone and s5cmd."""

import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import boto3
import httpx
import obstore
import pytest
from botocore.exceptions import ClientError
from localcloud.testing import s3_client, wait_until
from obstore.store import S3Store
from salad_cloud_sdk import SaladCloudSdk
from salad_cloud_sdk.models import (
    ContainerConfiguration,
    ContainerGroupCreationRequest,
    ContainerGroupPatch,
    ContainerGroupPriority,
    ContainerRestartPolicy,
    CreateContainerResourceRequirements,
    UpdateContainer,
)
from salad_cloud_sdk.net.transport.api_error import ApiError

NAME = "made-by-sdk"


@pytest.fixture
def sdk(connection: dict[str, Any]) -> SaladCloudSdk:
    salad = connection["salad"]
    return SaladCloudSdk(api_key=salad["api_key"], base_url=salad["url"])


@pytest.fixture(scope="module")
def bucket(connection: dict[str, Any]) -> str:
    """One bucket for all S3 clients."""
    s3_client(connection).create_bucket(Bucket="shared")
    return "shared"


def test_the_official_sdk_works(sdk: SaladCloudSdk, connection: dict[str, Any]) -> None:
    groups = sdk.container_groups
    place = (connection["salad"]["organization"], connection["salad"]["project"])
    gpu = sdk.organization_data.list_gpu_classes(place[0]).items[0]
    container = ContainerConfiguration(
        image="saladtechnologies/ai-toolkit:cuda12.8-flux1-dev-kelpie",
        resources=CreateContainerResourceRequirements(cpu=4, memory=24576, gpu_classes=[gpu.id_]),
        environment_variables={"FLUX_OWNER": "sdk"},
        priority=ContainerGroupPriority.BATCH,
    )
    request = ContainerGroupCreationRequest(
        name=NAME,
        autostart_policy=False,
        container=container,
        replicas=1,
        restart_policy=ContainerRestartPolicy.ALWAYS,
    )
    made = groups.create_container_group(request, *place)
    assert (made.name, made.replicas, made.priority) == (NAME, 1, "batch")
    read = groups.get_container_group(*place, NAME)
    assert read.id_ == made.id_
    assert read.container.environment_variables == {"FLUX_OWNER": "sdk"}
    assert [group.id_ for group in groups.list_container_groups(*place).items] == [made.id_]

    change = ContainerGroupPatch(replicas=2, container=UpdateContainer(image="other:1"))
    patched = groups.update_container_group(change, *place, NAME)
    assert (patched.replicas, patched.container.image, patched.id_) == (2, "other:1", made.id_)

    groups.start_container_group(*place, NAME)
    found = wait_until(lambda: groups.list_container_group_instances(*place, NAME).instances)
    assert found[0].state == "allocating"
    assert groups.get_container_group_instance(*place, NAME, found[0].id_).machine_id == found[0].machine_id
    groups.stop_container_group(*place, NAME)
    wait_until(lambda: groups.get_container_group(*place, NAME).current_state.status == "stopped")
    groups.delete_container_group(*place, NAME)

    def status() -> int:
        try:
            groups.get_container_group(*place, NAME)
        except ApiError as error:
            return int(error.status)
        return 200

    wait_until(lambda: status() == 404)


def test_boto3_and_obstore_share_a_bucket(connection: dict[str, Any], bucket: str) -> None:
    place = connection["s3"]
    store = S3Store(
        bucket,
        endpoint=place["url"],
        region=place["region"],
        access_key_id=place["access_key_id"],
        secret_access_key=place["secret_access_key"],
        virtual_hosted_style_request=False,
        client_options={"allow_http": True},
    )
    s3 = s3_client(connection)
    s3.put_object(Bucket=bucket, Key="obstore/from boto3.txt", Body=b"one")
    big = os.urandom(12 * 1024 * 1024)
    obstore.put(store, "obstore/in parts.bin", big)
    assert obstore.get(store, "obstore/from boto3.txt").bytes().to_bytes() == b"one"
    assert s3.get_object(Bucket=bucket, Key="obstore/in parts.bin")["Body"].read() == big
    assert obstore.get_range(store, "obstore/in parts.bin", start=5, end=9).to_bytes() == big[5:9]
    listed = {entry["path"]: entry["size"] for batch in obstore.list(store, "obstore") for entry in batch}
    assert listed == {"obstore/from boto3.txt": 3, "obstore/in parts.bin": len(big)}
    with pytest.raises(obstore.exceptions.AlreadyExistsError):
        obstore.put(store, "obstore/from boto3.txt", b"two", mode="create", use_multipart=False)
    obstore.delete(store, "obstore/in parts.bin")
    assert s3.list_objects_v2(Bucket=bucket, Prefix="obstore/")["KeyCount"] == 1


@pytest.mark.parametrize("program", ["rclone", "s5cmd"])
def test_rclone_and_s5cmd_share_a_bucket_with_boto3(
    connection: dict[str, Any], bucket: str, tmp_path: Path, program: str
) -> None:
    if shutil.which(program) is None:
        pytest.skip(f"no {program} on the PATH; one of rclone (apt-get install rclone) and s5cmd is enough")
    s3 = s3_client(connection)
    s3.put_object(Bucket=bucket, Key=f"{program}/deep/from boto3.txt", Body=b"one")
    (tmp_path / "up/deep").mkdir(parents=True)
    big = os.urandom(7 * 1024 * 1024)
    (tmp_path / "up/deep/sent.bin").write_bytes(big)
    run_program(program, connection, tmp_path, "up", f"{bucket}/{program}")
    assert s3.get_object(Bucket=bucket, Key=f"{program}/deep/sent.bin")["Body"].read() == big
    run_program(program, connection, tmp_path, f"{bucket}/{program}", "down")
    assert (tmp_path / "down/deep/from boto3.txt").read_bytes() == b"one"
    assert (tmp_path / "down/deep/sent.bin").read_bytes() == big


def run_program(program: str, connection: dict[str, Any], folder: Path, source: str, target: str) -> None:
    """Copy `source` to `target`: `up` and `down` are folders in `folder`, anything else is in the storage."""
    s3, remote = connection["s3"], {"rclone": "flux:", "s5cmd": "s3://"}[program]
    source, target = (place if place in ("up", "down") else remote + place for place in (source, target))
    environment = {
        "PATH": os.environ["PATH"],
        "HOME": str(folder),
        "AWS_ACCESS_KEY_ID": s3["access_key_id"],
        "AWS_SECRET_ACCESS_KEY": s3["secret_access_key"],
        "AWS_REGION": s3["region"],
        "S3_ENDPOINT_URL": s3["url"],
        "RCLONE_CONFIG_FLUX_TYPE": "s3",
        "RCLONE_CONFIG_FLUX_PROVIDER": "Cloudflare",
        "RCLONE_CONFIG_FLUX_ENV_AUTH": "true",
        "RCLONE_CONFIG_FLUX_ENDPOINT": s3["url"],
        "RCLONE_CONFIG_FLUX_NO_CHECK_BUCKET": "true",
    }
    if program == "rclone":
        arguments = ["copy", source, target]
    else:
        (folder / "down").mkdir(exist_ok=True)
        arguments = ["cp", source + ("/" if source == "up" else "/*"), target + "/"]
    command = [program, *arguments]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    "signed_as", ["STREAMING-UNSIGNED-PAYLOAD-TRAILER", "STREAMING-AWS4-HMAC-SHA256-PAYLOAD"]
)
def test_chunked_bodies_are_refused(connection: dict[str, Any], bucket: str, signed_as: str) -> None:
    """SDKs send these by default; R2 answers 501."""
    url = s3_client(connection).generate_presigned_url("put_object", {"Bucket": bucket, "Key": "chunks"})
    answer = httpx.put(url, content=b"1\r\nx\r\n0\r\n\r\n", headers={"x-amz-content-sha256": signed_as})
    assert answer.status_code == 501
    assert "NotImplemented" in answer.text
    assert "when_required" in answer.text


def test_an_sdk_with_default_checksums_is_refused(connection: dict[str, Any], bucket: str) -> None:
    """Over HTTPS the SDK sends chunks, over HTTP the same checksum in a header. Both must fail."""
    s3 = connection["s3"]
    untold = boto3.client(
        "s3",
        endpoint_url=s3["url"],
        aws_access_key_id=s3["access_key_id"],
        aws_secret_access_key=s3["secret_access_key"],
        region_name=s3["region"],
    )
    with pytest.raises(ClientError, match="when_required"):
        untold.put_object(Bucket=bucket, Key="untold", Body=b"x")
    upload = untold.create_multipart_upload(Bucket=bucket, Key="untold")["UploadId"]
    with pytest.raises(ClientError, match="when_required"):
        untold.upload_part(Bucket=bucket, Key="untold", UploadId=upload, PartNumber=1, Body=b"x")
    untold.delete_objects(Bucket=bucket, Delete={"Objects": [{"Key": "untold"}]})
