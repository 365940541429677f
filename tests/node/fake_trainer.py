"""A trainer that does what its arguments say, in order. Standard library only; also the tests' writer of weights.

steps:A-B   ai-toolkit's progress lines from A to B of 20      save:N      the checkpoint of step N
final:N     the final weights, of step N                       cut:N       the same, cut in the middle
nans:A-B    the same from A to B, without a loss
nan:N       the same, with a value that is not a number        say:TEXT    a line of output
loss:X      one progress line with that loss                   noise       megabytes of bytes that are no text
exit:N      ends with that code                                kill:N      dies by that signal
sleep       for ever                                           deaf        SIGINT and SIGTERM are ignored
pace:N      50 lines a second for N seconds           slow:N     the checkpoint of step N, in a second
zero        ends with 0 on SIGINT                          stages:N    the final weights of both noise stages
child       leaves a process behind that holds the output      env         prints its environment
"""

import json
import os
import signal
import struct
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

TOTAL = 20
FOLDER = Path("output/job")


def weights(
    step: Any, values: tuple[float, ...] = (0.5, -1.0, 2.0, 0.0), metadata: dict[str, str] | None = None
) -> bytes:
    """A small .safetensors file with float16 values, as ai-toolkit would name and mark it."""
    data = struct.pack(f"<{len(values)}e", *values)
    entry = {"dtype": "F16", "shape": [len(values) // 2, 2], "data_offsets": [0, len(data)]}
    marks = (
        {"training_info": json.dumps({"step": step, "epoch": 0}), "format": "pt"}
        if metadata is None
        else metadata
    )
    header = json.dumps({"__metadata__": marks, "transformer.x.lora_A.weight": entry}).encode()
    return struct.pack("<Q", len(header)) + header + data


def bar(step: int, loss: str) -> None:
    filled = "█" * (10 * step // TOTAL)
    text = f"\rjob: {100 * step // TOTAL:3}%|{filled:<10}| {step}/{TOTAL} [00:01<00:02, 10.00it/s, lr: 1.0e-04 loss: {loss}]"
    sys.stderr.write(text)
    sys.stderr.flush()


def act(word: str) -> None:  # noqa: C901 - one branch for each command
    action, _, value = word.partition(":")
    match action:
        case "steps":
            first, last = map(int, value.split("-"))
            for step in range(first, last):
                bar(step, f"{1 / (step + 1):.3e}")
                bar(step + 1, f"{1 / (step + 1):.3e}")
        case "pace":
            (FOLDER / "asleep").write_text(str(os.getpid()))
            for line in range(50 * int(value)):
                bar(line // 2 % TOTAL, f"{1 / (line + 1):.3e}")
                time.sleep(0.02)
        case "slow":
            with (FOLDER / f"job_{int(value):09}.safetensors").open("wb") as file:
                for byte in weights(int(value)):
                    file.write(bytes([byte]))
                    file.flush()
                    time.sleep(0.005)
        case "nans":
            first, last = map(int, value.split("-"))
            for step in range(first, last):
                print("loss is nan", flush=True)
                bar(step, "0.000e+00")
                bar(step + 1, "0.000e+00")
        case "loss":
            bar(7, value)
        case "save":
            (FOLDER / f"job_{int(value):09}.safetensors").write_bytes(weights(int(value)))
        case "final":
            (FOLDER / "job.safetensors").write_bytes(weights(int(value)))
        case "stages":
            for stage in ("high", "low"):
                (FOLDER / f"job_{stage}_noise.safetensors").write_bytes(weights(int(value)))
        case "cut":
            (FOLDER / "job.safetensors").write_bytes(weights(int(value))[:-3])
        case "nan":
            (FOLDER / "job.safetensors").write_bytes(weights(int(value), (0.5, float("nan"), 0.0, 1.0)))
        case "say":
            print(value, flush=True)
        case "noise":
            for _ in range(64):
                sys.stdout.buffer.write(os.urandom(1 << 15) + b"x" * (1 << 15))
        case "exit":
            sys.exit(int(value))
        case "kill":
            os.kill(os.getpid(), int(value))
        case "deaf":
            signal.signal(signal.SIGINT, signal.SIG_IGN)
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
        case "zero":
            signal.signal(signal.SIGINT, lambda *_: sys.exit(0))
        case "child":
            subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
        case "env":
            print("\n".join(sorted(os.environ)), flush=True)
        case "sleep":
            (FOLDER / "asleep").write_text(str(os.getpid()))
            while True:
                time.sleep(600)
        case _:
            raise ValueError(word)


if __name__ == "__main__":
    for given in sys.argv[1:]:
        act(given)
