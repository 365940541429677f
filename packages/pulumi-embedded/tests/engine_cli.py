"""The real Pulumi CLI beside the engine, where it is on the PATH, and what two states have in common."""

import json
import os
import re
import subprocess
import sys
from typing import Any

from engine_stack import EngineStack
from pulumi_embedded.launcher import find_cli

# The real CLI, if it is on the PATH.
CLI = find_cli(os.environ)


def for_both(stack: EngineStack) -> None:
    """A project file that the CLI can work with too: it has to be told which Python has the SDK."""
    (stack.folder / "Pulumi.yaml").write_text(
        f"name: test\nruntime: {{name: python, options: {{virtualenv: '{sys.prefix}'}}}}\nbackend: {{url: 'file://.'}}\n"
    )


def essence(latest: dict[str, Any]) -> list[str]:
    """The resources without times, made-up ids, and where in the SDK they were declared; secrets by their being so."""
    found = []
    for item in latest.get("resources", []):
        kept = {
            key: value
            for key, value in item.items()
            if key not in ("created", "modified", "stackTrace", "sourcePosition")
        }
        # The CLI's refresh drops the empty lists, and its next `up` puts them back.
        found_urns = {key: urns for key, urns in kept.pop("propertyDependencies", {}).items() if urns}
        kept["propertyDependencies"] = found_urns
        text = json.dumps(blind(kept), sort_keys=True)
        found.append(re.sub(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", "UUID", text))
    return sorted(found)


def blind(value: Any) -> Any:
    if isinstance(value, dict):
        return "SECRET" if "ciphertext" in value else {key: blind(item) for key, item in value.items()}
    return [blind(item) for item in value] if isinstance(value, list) else value


def engine(stack: EngineStack, *arguments: str, code: int = 0) -> str:
    """Run the engine as `cli` runs the CLI."""
    return stack.run(*arguments, code=code)


def cli(stack: EngineStack, *arguments: str, code: int = 0, **more: str) -> str:
    """Run the CLI; what it printed.  `code`: the exit status it must have; `more`: its environment."""
    environment = {
        **{key: value for key, value in stack.environment.items() if key != "PYTHONPATH"},
        "PATH": os.environ["PATH"],
        "PULUMI_SKIP_UPDATE_CHECK": "true",
        "PULUMI_DISABLE_AUTOMATIC_PLUGIN_ACQUISITION": "true",
        **more,
    }
    done = subprocess.run(
        ["pulumi", *arguments, "--non-interactive", "--color", "never"],
        cwd=stack.folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout + done.stderr
