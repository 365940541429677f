"""SIGKILL at seeded moments: the state, packed or not, is readable each time, knows all that was made, and nothing is done twice.

Eight kills, and KILLS (50) of them with `-m long`, from the seed KILLS_SEED (1) on.
"""

import json
import os
import random
import signal
import time
from collections import Counter
from typing import Any

import pytest
from engine_stack import EngineStack, thing
from pulumi_embedded.state import serialization, snapshot
from pulumi_embedded.state.backend import Backend, StackId

KILLS = int(os.environ.get("KILLS", "50"))
SEED = int(os.environ.get("KILLS_SEED", "1"))
WORKERS = 2
NAMES = [f"t{i}" for i in range(12)]


def on(i: int) -> Any:
    """Three things in a row stand on each other."""
    return {"$ref": [NAMES[i - 1], "length"]} if i % 3 else 1


class Killed:
    """A stack whose updates are killed, over and over."""

    def __init__(self, stack: EngineStack, seed: int) -> None:
        self.stack = stack
        self.random = random.Random(seed)
        self.backend = Backend.open("file://.", stack.folder)
        self.pending: Counter[str] = Counter()

    def rounds(self, kills: int) -> int:
        """Create, change and delete everything, each through kills until it is done; how many kills there were."""
        done = number = 0
        while done < kills:
            number += 1
            if number % 3 == 0:
                self.stack.spec()
            else:
                self.stack.spec({name: thing(f"{number}", of=on(i)) for i, name in enumerate(NAMES)})
            done += self._until_done(["delete", "create", "update"][number % 3])
        return done

    def _until_done(self, verb: str) -> int:
        kills = 0
        self.pending.clear()
        self.stack.calls()
        log = self.stack.cloud / "calls.log"
        while True:
            begun = len(log.read_text().splitlines()) if log.exists() else 0
            left = len(NAMES) - begun
            # Also while the state goes from one form to the other.
            self.stack.environment["PULUMI_DIY_BACKEND_GZIP"] = self.random.choice(["true", "false"])
            process = self.stack.start_up()
            after = begun + self.random.randrange(max(left, 1))
            self.stack.until(
                lambda process=process, after=after: (
                    process.poll() is not None or (log.exists() and len(log.read_text().splitlines()) > after)
                )
            )
            moment = time.monotonic() + self.random.random() * 0.01
            while time.monotonic() < moment:
                pass
            process.send_signal(signal.SIGKILL)
            output, _ = process.communicate(timeout=30)
            if process.returncode == 0:
                break
            assert process.returncode == -signal.SIGKILL, output
            kills += 1
            self._check_state()
        calls = Counter(self.stack.calls())
        self._check_calls(verb, calls)
        return kills

    def _deployment(self) -> dict[str, Any]:
        return snapshot.current_deployment(self.backend, StackId("test", "dev"))

    def _check_state(self) -> None:
        """Readable; what exists is known or pending, and what is known exists or is being deleted."""
        deployment = self._deployment()
        assert serialization.find_state_error(deployment.get("resources") or []) == ""
        known = {item["urn"].rsplit("::", 1)[-1] for item in deployment.get("resources") or []}
        pending = {
            (entry["resource"]["urn"].rsplit("::", 1)[-1], entry["type"])
            for entry in deployment.get("pending_operations") or []
        }
        self.pending.update(name for name, _ in pending)
        made = {path.stem for path in self.stack.cloud.glob("t*.json")}
        assert made <= known | {name for name, _ in pending}
        # A delete without an outcome is begun anew by the next run; until then the row is all that is known of it.
        assert known & set(NAMES) <= made | set(self.pending)

    def _check_calls(self, verb: str, calls: Counter[str]) -> None:
        """Each was done once, and again only where a kill left its outcome open."""
        for name in NAMES:
            done = calls[f"{verb} {name}"]
            assert 1 <= done <= 1 + self.pending[name], (name, verb, calls, self.pending)
        for name in NAMES:
            assert calls[f"create {name}"] <= 1
        made = {path.stem for path in self.stack.cloud.glob("t*.json")}
        assert made == (set() if verb == "delete" else set(NAMES))
        assert not self._deployment().get("pending_operations")


def forget_the_passphrase(stack: EngineStack) -> None:
    """A stack without secrets: half of the time of so short an update is the derivation of its key."""
    (stack.folder / "Pulumi.dev.yaml").unlink()
    content = json.loads(stack.state_file.read_bytes())
    del content["checkpoint"]["latest"]["secrets_providers"]
    stack.state_file.write_text(json.dumps(content))


LONG = [pytest.param(SEED + number, KILLS // WORKERS, marks=pytest.mark.long) for number in range(WORKERS)]


@pytest.mark.parametrize(("seed", "kills"), [(SEED, 4), *LONG])
def test_killed_at_seeded_moments(stack: EngineStack, seed: int, kills: int) -> None:
    forget_the_passphrase(stack)
    killed = Killed(stack, seed)
    done = killed.rounds(kills)
    print(f"seed {seed}: {done} kills")
