"""Crashes, interruptions and locks: the state is readable each time and knows what was made."""

import json
import os
import signal
from pathlib import Path

import pytest
from engine_stack import EngineStack, is_running, thing
from pulumi_embedded.errors import LockedError
from pulumi_embedded.state import locks as locking
from pulumi_embedded.state.stores import FolderStore


def locks(stack: EngineStack) -> list[Path]:
    return list((stack.folder / ".pulumi/locks/organization/test/dev").glob("*.json"))


def children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="finds child processes by /proc")
def test_a_killed_engine_loses_nothing_and_leaves_no_process_behind(stack: EngineStack) -> None:
    stack.spec({"one": thing(), "slow": thing(gate="go", of={"$ref": ["one", "length"]})})
    process = stack.start_up()
    stack.until_called("wait go")
    own = children(process.pid)
    assert len(own) == 2
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert len(locks(stack)) == 1
    # The request under way is finished by the provider, which then ends.
    stack.open("go")
    stack.until(lambda: not any(is_running(pid) for pid in own))
    assert (stack.cloud / "slow.json").exists()
    # Anybody who looks sees the finished step, before and after it is folded into the file.
    assert 'resourceCount": 3' in stack.run("stack", "ls", "--json")
    stack.calls()

    output = stack.up()
    assert "took over the lock" in output
    assert "slow" in output
    assert output.count("ended while it was creating") == 1
    assert stack.calls() == ["wait go", "adopt slow"]
    assert not locks(stack)
    assert "pending_operations" not in stack.latest()
    assert "3 unchanged" in stack.up()


def test_one_interrupt_finishes_the_running_steps(stack: EngineStack) -> None:
    stack.spec({"slow": thing(gate="go"), "after": thing(of={"$ref": ["slow", "length"]})})
    process = stack.start_up()
    stack.until_called("wait go")
    process.send_signal(signal.SIGINT)
    stack.open("go")
    output, _ = process.communicate(timeout=30)
    assert process.returncode == 1
    assert "update canceled" in output
    assert "slow" in stack.resources()
    assert "after" not in stack.resources()
    assert not locks(stack)
    assert "pending_operations" not in stack.latest()


@pytest.mark.long
def test_an_interrupt_before_the_program_registers_anything_changes_nothing(stack: EngineStack) -> None:
    """The program ends as usual, and registers the outputs of the stack, which was skipped."""
    spec = {"things": {"one": thing()}, "exports": {"a": "b"}}
    stack.spec(**spec)
    stack.up()
    before = stack.resources()
    (stack.folder / "spec.json").unlink()
    os.mkfifo(stack.folder / "spec.json")
    process = stack.start_up()
    with (stack.folder / "spec.json").open("w") as pipe:  # opens once the program reads it
        process.send_signal(signal.SIGINT)
        assert process.stdout is not None
        assert any("canceling" in line for line in process.stdout)
        pipe.write(json.dumps(spec))
    assert process.wait(30) == 1
    after = stack.resources()  # refuses a state with a resource twice
    assert {name: one.get("outputs") for name, one in after.items()} == {
        name: one.get("outputs") for name, one in before.items()
    }


def test_a_row_that_an_earlier_version_wrote_twice_is_removed(stack: EngineStack) -> None:
    """Ctrl-C in the first seconds of an update wrote the row of the stack a second time."""
    stack.spec({"one": thing()}, exports={"a": 1})
    stack.up()
    content = json.loads(stack.state_file.read_bytes())
    rows = content["checkpoint"]["latest"]["resources"]
    before = len(rows)
    rows.append(rows[0])
    stack.state_file.write_text(json.dumps(content))
    stack.up()
    assert len(stack.latest()["resources"]) == before  # refuses a state with a resource twice
    assert stack.run("stack", "output", "a") == "1\n"


@pytest.mark.parametrize("lines", [1, 3])
def test_an_update_ends_when_its_output_is_closed(stack: EngineStack, lines: int) -> None:
    stack.spec({f"t{i}": thing() for i in range(6)})
    process = stack.start_up("--parallel", "1")
    assert process.stdout is not None
    for _ in range(lines):
        process.stdout.readline()
    process.stdout.close()
    assert process.wait(60) == 1
    assert not locks(stack)
    assert "pending_operations" not in stack.latest()
    assert {path.stem for path in stack.cloud.glob("t*.json")} == stack.resources().keys() - {
        "test-dev",
        "default",
    }
    assert len(stack.resources()) < 8
    stack.up()
    assert len(stack.resources()) == 8


def test_two_interrupts_stop_at_once(stack: EngineStack) -> None:
    stack.spec({"one": thing(), "slow": thing(gate="go", of={"$ref": ["one", "length"]})})
    process = stack.start_up()
    stack.until_called("wait go")
    assert process.stdout is not None
    process.send_signal(signal.SIGINT)
    assert any(
        "canceling" in line for line in process.stdout
    )  # signals that are sent together may arrive as one
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 8
    assert "the steps that were running may have taken effect" in output
    assert "one" in stack.resources()
    assert [op["type"] for op in stack.latest()["pending_operations"]] == ["creating"]
    assert not locks(stack)


@pytest.fixture
def store(tmp_path: Path) -> FolderStore:
    return FolderStore(tmp_path)


def put_lock(store: FolderStore, folder: str = "locks", **changes: object) -> None:
    """A lock of a process that runs here, this one, but for the changes; None leaves a key out."""
    own = locking.take_lock(store, folder, print)
    content = {**json.loads(store.read(own.key) or b""), **changes}
    own.release()
    kept = {key: value for key, value in content.items() if value is not None}
    store.write(f"{folder}/a.json", json.dumps(kept).encode())


NOBODY = 2**22 + 1  # no process has so high a number
HERE = locking.process_namespace()
# A lock's changes from our own, and whether it is taken over in a folder and in a bucket.
LOCKS: dict[str, tuple[dict[str, object], bool, bool]] = {
    "alive": ({}, False, False),
    "ended": ({"pid": NOBODY}, True, True),
    "another process has its number now": ({"started": "another time"}, True, True),
    "another machine": ({"hostname": "elsewhere", "place": "another pid:[1]", "pid": NOBODY}, False, False),
    # In a bucket, machines of one name are common; the folder is this machine's.
    "before a restart": ({"place": "another pid:[1]", "pid": NOBODY}, True, False),
    "another container": ({"place": f"{HERE.split()[0]} pid:[1]", "pid": NOBODY}, False, False),
    "the CLI, ended": ({"place": None, "started": None, "pid": NOBODY}, True, False),
    "the CLI, alive": ({"place": None, "started": None}, False, False),
    "the CLI elsewhere": ({"place": None, "started": None, "pid": NOBODY, "hostname": "x"}, False, False),
}


@pytest.mark.parametrize("is_local", [True, False], ids=["folder", "bucket"])
@pytest.mark.parametrize("who", LOCKS)
def test_which_locks_are_taken_over(store: FolderStore, who: str, is_local: bool) -> None:
    changes, in_folder, in_bucket = LOCKS[who]
    put_lock(store, **changes)
    store.is_local = is_local
    told: list[str] = []
    if in_folder if is_local else in_bucket:
        locking.take_lock(store, "locks", told.append).release()
        assert "took over the lock" in told[0]
        assert store.list_keys("locks") == []
    else:
        with pytest.raises(
            LockedError, match=r"locked by 1 lock.*\n  a.json: created by .*@.* \(pid \d+\)"
        ) as caught:
            locking.take_lock(store, "locks", told.append)
        is_known_to_run = who == "alive"
        assert ("wait until it ends" in str(caught.value)) == is_known_to_run
        assert ("pulumi cancel" in str(caught.value)) != is_known_to_run


def test_cancel_removes_a_lock(stack: EngineStack) -> None:
    put_lock(
        FolderStore(stack.folder / ".pulumi"),
        "locks/organization/test/dev",
        hostname="elsewhere",
        place="another pid:[1]",
    )
    stack.spec({"one": thing()})
    refused = stack.up(code=1)
    assert "currently locked by 1 lock(s)" in refused
    assert "if none is running, `" in refused
    assert "pulumi cancel --stack dev` deletes the lock" in refused
    assert "(1 lock(s) removed)" in stack.run("cancel")
    assert "2 created" in stack.up()


def test_cancel_keeps_the_journal_of_a_running_update(stack: EngineStack) -> None:
    stack.spec(
        {
            "one": thing(),
            "slow": thing(gate="first", of={"$ref": ["one", "length"]}),
            "last": thing(gate="second", of={"$ref": ["slow", "length"]}),
        }
    )
    process = stack.start_up()
    stack.until_called("wait first")
    assert f"Process {process.pid} is still working on the stack" in stack.run("cancel")
    stack.open("first")
    stack.until_called("wait second")
    process.send_signal(signal.SIGKILL)
    process.wait()
    stack.open("second")
    stack.until(lambda: (stack.cloud / "last.json").exists())
    assert 'resourceCount": 4' in stack.run("stack", "ls", "--json")
    stack.calls()
    stack.up()
    assert stack.calls() == ["wait second", "adopt last"]


def test_a_journal_of_another_state_is_put_aside(stack: EngineStack) -> None:
    stack.spec({"one": thing()})
    stack.up()
    journal = stack.folder / ".pulumi/journals/test/dev.jsonl"
    journal.parent.mkdir(parents=True, exist_ok=True)
    head = {"journal": 1, "checkpoint": "0" * 64, "new": [], "old": [], "pending": []}
    journal.write_text(json.dumps(head) + "\n" + json.dumps([["drop", 0]]) + "\n")
    assert "put aside" in stack.up(code=1).replace("put\naside", "put aside")
    assert "2 unchanged" in stack.up()
