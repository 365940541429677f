"""Each place where the engine changes the SDK at run time has a test here that fails without the change."""

import subprocess
import sys
from pathlib import Path

from engine_stack import PACKAGE_FOLDER, EngineStack, new_stack, thing

DEBUG_LOG = """
import pulumi

def fail():
    raise AssertionError("a debug message was sent to the engine")

pulumi.log.get_engine = fail
pulumi.log.debug("a message")
"""

LOCAL_PROVIDERS = """
from pulumi.dynamic import CreateResult, Resource, ResourceProvider

class LocalProvider(ResourceProvider):
    # Pickled by value, because the program itself defines it.
    def create(self, props):
        return CreateResult("id", props)

class LocalThing(Resource, module="test", name="LocalThing"):
    pass

for i in range(400):
    LocalThing(LocalProvider(), f"t{i}", {})
"""

WAIT_FOR_OUTPUTS = """
import asyncio
from things import FileThing

wait, waits = asyncio.wait, []

async def counted(*arguments, **options):
    waits.append(1)
    if len(waits) == 10:
        print("waited 10 times")
    return await wait(*arguments, **options)

asyncio.wait = counted
for i in range(200):
    FileThing(f"t{i}", {"text": "a"}, None)
"""

AUTOMATION = """
import sys
import pulumi

loaded = "pulumi.automation._stack" in sys.modules
print("loaded by the SDK:", loaded, "- usable:", pulumi.automation.LocalWorkspace.__name__)
"""


def test_more_than_319_dynamic_resources(stack: EngineStack) -> None:
    (stack.folder / "__main__.py").write_text(LOCAL_PROVIDERS)
    assert "+ 401 to create" in stack.run("preview")


def test_debug_messages_are_not_sent(stack: EngineStack) -> None:
    (stack.folder / "__main__.py").write_text(DEBUG_LOG)
    stack.up()


def test_outputs_are_awaited_together(stack: EngineStack) -> None:
    (stack.folder / "__main__.py").write_text(WAIT_FOR_OUTPUTS)
    assert "waited 10 times" not in stack.run("preview")


def test_automation_is_imported_at_its_first_use(tmp_path: Path) -> None:
    stack = new_stack(tmp_path)
    (stack.folder / "__main__.py").write_text(AUTOMATION)
    assert "loaded by the SDK: False - usable: LocalWorkspace" in stack.run("preview")


def test_dynamic_providers_serve_as_many_requests_as_the_engine_runs(stack: EngineStack) -> None:
    names = [f"t{i}" for i in range(6)]  # the SDK's own server would serve four
    stack.spec({name: thing(gate=f"gate-{name}") for name in names})
    process = stack.start_up()
    for name in names:
        stack.until_called(f"wait gate-{name}")
    for name in names:
        stack.open(f"gate-{name}")
    assert process.wait(60) == 0


def test_the_engine_loads_the_stubs_without_the_sdk() -> None:
    code = "import sys; import pulumi_embedded.program.monitor; print('pulumi.output' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=PACKAGE_FOLDER, capture_output=True, text=True, check=True
    )
    assert done.stdout == "False\n"
