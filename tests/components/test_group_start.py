"""Without autoscaling a container group runs, even if its image is still being prepared or somebody stopped it."""

from collections.abc import Iterator

import pytest
from localcloud.testing import running_cloud, wait_until

from components.container_group import ContainerGroupProvider
from flux_training.clients.connection import Connection, connect
from tests.components.groups import group_props, provider_of


@pytest.fixture(scope="module")
def connection(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Connection]:
    """A cloud that prepares an image for two seconds; no node ever runs there."""
    place = tmp_path_factory.mktemp("cloud")
    with running_cloud(place, nodes=0, boot_seconds=10.0):
        yield connect("local", {}, {"FLUX_LOCAL_CLOUD": str(place / "connection.json")})


@pytest.fixture
def groups(connection: Connection) -> ContainerGroupProvider:
    return provider_of(ContainerGroupProvider, connection)


def status_of(connection: Connection, name: str) -> str:
    group = connection.salad().get_group(name)
    assert group is not None
    return group.current_state.status


def after_pending(connection: Connection, name: str) -> str:
    """Its status once the image is prepared."""
    return wait_until(lambda: status if (status := status_of(connection, name)) != "pending" else "")


@pytest.mark.parametrize(
    ("autoscale", "replicas", "status"),
    [(False, 1, "deploying"), (False, 0, "stopped"), (True, 1, "stopped")],
)
def test_a_new_group_without_autoscaling_starts_by_itself(
    connection: Connection, groups: ContainerGroupProvider, autoscale: bool, replicas: int, status: str
) -> None:
    wanted = group_props(connection, autoscale=autoscale, replicas=replicas)
    groups.create(wanted)
    assert status_of(connection, wanted["name"]) == "pending"
    assert after_pending(connection, wanted["name"]) == status


def test_a_pending_group_that_will_not_start_by_itself_is_started(
    connection: Connection, groups: ContainerGroupProvider
) -> None:
    before = group_props(connection)
    made = groups.create(before)
    assert made.id is not None
    groups.update(made.id, made.outs, {**before, "autoscale": False, "replicas": 1})
    assert after_pending(connection, before["name"]) == "deploying"


def test_a_group_that_was_stopped_shows_as_drift_and_is_started_again(
    connection: Connection, groups: ContainerGroupProvider
) -> None:
    wanted = group_props(connection, autoscale=False, replicas=1)
    made = groups.create(wanted)
    assert made.id is not None
    assert groups.read(made.id, made.outs).inputs["replicas"] == 1
    after_pending(connection, wanted["name"])
    assert groups.read(made.id, made.outs).inputs["replicas"] == 1
    connection.salad().stop_group(wanted["name"])
    seen = groups.read(made.id, made.outs)
    assert seen.inputs["replicas"] == 0
    groups.update(made.id, seen.outs, wanted)
    assert status_of(connection, wanted["name"]) == "deploying"
    assert groups.read(made.id, made.outs).inputs["replicas"] == 1
