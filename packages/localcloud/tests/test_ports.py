"""Which ports a local cloud uses when others run on the same machine."""

import socket
from collections.abc import Iterator

import pytest
from localcloud.daemon import ports
from localcloud.home import HomeState


@pytest.fixture
def taken() -> Iterator[int]:
    with socket.create_server((ports.ADDRESS, 0)) as listener:
        port: int = listener.getsockname()[1]
        yield port


def numbers(port: int | None, state: HomeState) -> list[int]:
    bound = ports.bind_api_and_s3(port, state)
    found = [one.getsockname()[1] for one in bound]
    for one in bound:
        one.close()
    return found


def test_an_occupied_default_port_is_replaced_by_a_free_one(
    taken: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ports, "DEFAULT_PORT", taken)
    assert taken not in numbers(None, HomeState())


def test_the_ports_of_the_last_start_are_used_again() -> None:
    first = numbers(0, HomeState())
    assert numbers(None, HomeState(api_port=first[0], s3_port=first[1])) == first


def test_an_occupied_port_that_was_asked_for_is_an_error(taken: int) -> None:
    with pytest.raises(ports.PortError, match="choose another with --port N"):
        numbers(taken, HomeState())
