"""The engine, the program and the providers reach each other without the user's proxy."""

import pytest
from engine_stack import EngineStack
from pulumi_embedded.program.processes import _no_proxy

DEAD = "http://127.0.0.1:9"
VARIABLES = ("http_proxy", "https_proxy", "grpc_proxy", "all_proxy")
EVERY_SPELLING = {name: DEAD for lower in VARIABLES for name in (lower, lower.upper())}


def test_every_operation_works_behind_a_dead_proxy(stack: EngineStack) -> None:
    stack.environment |= EVERY_SPELLING | {"no_grpc_proxy": "example.org"}
    stack.spec({"a": {"text": "one"}})
    stack.run("preview")
    stack.up()
    stack.run("refresh", "--yes", "--skip-preview")
    stack.destroy()
    assert stack.calls()


@pytest.mark.parametrize(
    ("environment", "value"),
    [
        ({}, "127.0.0.1,localhost,::1"),
        ({"no_proxy": "a.example"}, "a.example,127.0.0.1,localhost,::1"),
        ({"no_grpc_proxy": "b.example", "no_proxy": "a.example"}, "b.example,127.0.0.1,localhost,::1"),
    ],
)
def test_hosts_that_the_user_exempts_stay_exempt(environment: dict[str, str], value: str) -> None:
    assert _no_proxy(environment)["no_grpc_proxy"] == value
