"""The services for these tests: the local cloud, and the real ones if their keys are given.

For the real services set FLUX_TEST_SALAD_API_KEY, FLUX_TEST_SALAD_ORGANIZATION, FLUX_TEST_SALAD_PROJECT and
FLUX_TEST_S3_ENDPOINT_URL, FLUX_TEST_S3_ACCESS_KEY_ID, FLUX_TEST_S3_SECRET_ACCESS_KEY (like the variables without TEST_ in
flux_training/clients/connection.py), and FLUX_TEST_BUCKET, an empty bucket, which the tests fill and empty again.
Nothing is started: groups have no replicas, and jobs are canceled.
"""

import os
import threading
import uuid
from collections.abc import Iterator

import pytest
from localcloud.testing import running_cloud

from flux_training.clients.connection import VARIABLES, Connection, connect
from flux_training.clients.salad import ContainerGroup, GroupSpec
from flux_training.clients.storage import Storage
from tests.support.s3_server import Server

GPU = "RTX 5090 (32 GB)"


def real_environment() -> dict[str, str]:
    """FLUX_TEST_SALAD_… and FLUX_TEST_S3_…, under the names that the product reads."""
    names = [*VARIABLES, "SALAD_API_URL", "KELPIE_API_URL"]
    given = {name: os.environ.get("FLUX_TEST_" + name.removeprefix("FLUX_"), "") for name in names}
    return {name: value for name, value in given.items() if value}


@pytest.fixture(scope="session", params=["local", "real"])
def connection(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Connection]:
    if request.param == "real":
        environment = real_environment()
        if "SALAD_API_KEY" not in environment or "FLUX_S3_ACCESS_KEY_ID" not in environment:
            pytest.skip("the real services are only tested with FLUX_TEST_SALAD_API_KEY, … (see conftest.py)")
        kind = "r2" if "CLOUDFLARE_API_TOKEN" in environment else "s3"
        yield connect("salad", {}, environment, kind)
        return
    home = tmp_path_factory.mktemp("cloud")
    with running_cloud(home, nodes=0):
        yield connect("local", {}, {"FLUX_LOCAL_CLOUD": str(home / "connection.json")})


@pytest.fixture
def storage(connection: Connection) -> Iterator[Storage]:
    """An existing, empty bucket."""
    given = os.environ.get("FLUX_TEST_BUCKET", "") if connection.cloud == "salad" else ""
    bucket = connection.storage(given or f"flux-test-{uuid.uuid4().hex[:12]}")
    bucket.ensure()
    yield bucket
    bucket.delete_many([item.key for item in bucket.list()])
    if not given:
        bucket.delete_bucket()


@pytest.fixture
def group(connection: Connection) -> Iterator[ContainerGroup]:
    """A container group without replicas that is not started."""
    salad = connection.salad()
    spec = GroupSpec(
        name=f"flux-test-{uuid.uuid4().hex[:12]}",
        image="saladtechnologies/ai-toolkit:cuda12.8-flux1-dev-kelpie",
        environment={"FLUX_OWNER": "tests/clients"},
        gpu_classes=[salad.gpu_class_id(GPU)],
        autostart=False,
    )
    yield salad.create_group(spec)
    salad.delete_group(spec.name)


@pytest.fixture
def server() -> Iterator[Server]:
    made = Server()
    thread = threading.Thread(target=made.serve_forever, args=(0.01,))
    thread.start()
    yield made
    made.shutdown()
    made.server_close()
    thread.join()
