"""The real commands in processes of their own, as an operator calls them on a stack that nodes attack."""

import re
import resource
import signal
import subprocess
import sys

import httpx

from tests.life.stacks import Stack

# Of any process: an `up`, a command, a page.
MAX_MEGABYTES = 500
ADDRESS = re.compile(r"http://\S+/")


def flux(stack: Stack, *arguments: str) -> str:
    """A command of `flux`. Exit code 1 means findings."""
    done = subprocess.run(
        [sys.executable, "-m", "flux_training.commands", *arguments],
        cwd=stack.root,
        # `open` calls a browser.
        env=stack.environment | {"BROWSER": "true"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    printed = done.stdout + done.stderr
    assert done.returncode in (0, 1), printed
    assert "Traceback" not in printed
    assert "\x1b" not in printed
    return printed


def browse(stack: Stack, *paths: str) -> str:
    """What the page of `flux ui` gets at these paths."""
    process = subprocess.Popen(
        [sys.executable, "-m", "flux_training.commands", "ui"],
        cwd=stack.root,
        env=stack.environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert process.stdout is not None
    try:
        found = ADDRESS.search(process.stdout.readline())
        assert found
        with httpx.Client(base_url=found[0], timeout=60) as client, client.stream("GET", "events") as events:
            # The page is served once the stack was read.
            next(events.iter_lines())
            answers = [client.get(path).raise_for_status().text for path in paths]
    finally:
        process.send_signal(signal.SIGINT)
        printed = process.communicate(timeout=60)[0]
    assert "Traceback" not in printed
    return "\n".join(answers)


def peak_megabytes() -> float:
    """The most memory that one of the processes needed that have ended so far."""
    return resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024
