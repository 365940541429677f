"""A Python interpreter that has its libraries imported already, for the hundreds of processes that the tests start.

`warm_python(folder, modules)` starts a server that imports `modules`, and makes `folder`/bin/python. That program stands in for the
interpreter of a virtual environment: it passes its arguments, folder, environment and standard files to the server, which forks a process
that runs them, and it ends as that process does. When it is killed, that process is killed too. Signals are not passed on.
"""

import contextlib
import gc
import importlib
import io
import json
import os
import runpy
import signal
import socket
import subprocess
import sys
import threading
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

# What the engine, programs and dynamic providers import.
MODULES = (
    "cryptography.hazmat.primitives.ciphers.aead",
    "grpc._interceptor",
    "grpc._server",
    "grpc.experimental",
    "pulumi.dynamic",
    "pulumi.runtime.proto.provider_pb2_grpc",
    "rich.live",
    "ruamel.yaml",
)
# `-I` and `-S`: it needs no packages, so it starts in 20 ms.
CLIENT = """\
#!{python} -IS
import json, os, socket, sys

server = socket.socket(socket.AF_UNIX)
server.connect({address!r})
socket.send_fds(server, [b" "], [0, 1, 2])
request = {{"arguments": sys.argv[1:], "folder": os.getcwd(), "environment": dict(os.environ)}}
server.sendall(json.dumps(request).encode() + b"\\n")
for number in (0, 1, 2):
    os.close(number)
status = server.recv(16)
os._exit(int(status) if status else 1)
"""


@contextmanager
def warm_python(folder: Path, modules: Sequence[str] = MODULES, source: Path | None = None) -> Iterator[Path]:
    """Serve until the end of the context; the virtual environment's folder.

    `folder` has to be short: the path of a Unix socket fits in 107 bytes. `source` holds modules that are not installed.
    """
    (folder / "bin").mkdir(parents=True)
    address = str(folder / "socket")
    client = folder / "bin/python"
    client.write_text(CLIENT.format(python=sys.executable, address=address), encoding="utf-8")
    client.chmod(0o755)
    command = [sys.executable, __file__, address, *modules]
    environment = {**os.environ, "PYTHONPATH": str(source or "")}
    with subprocess.Popen(
        command, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE
    ) as server:
        assert server.stdout is not None
        assert server.stdout.readline() == b"ready\n"
        try:
            yield folder
        finally:
            server.terminate()


def serve(address: str, modules: Sequence[str]) -> None:
    """Import the modules, then fork a process for each connection."""
    for module in modules:
        importlib.import_module(module)
    gc.freeze()
    # Collects children that have ended, and counts their CPU time as this process's.
    signal.signal(signal.SIGCHLD, collect_children)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(address)
        listener.listen(64)
        print("ready", flush=True)
        while True:
            client, _ = listener.accept()
            if os.fork() == 0:
                try:
                    listener.close()
                    keep(client)
                finally:
                    os._exit(1)
            client.close()


def collect_children(*_signal: object) -> None:
    with contextlib.suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG) != (0, 0):
            continue


def keep(client: socket.socket) -> None:
    """Run what one client asks for in a child, and send the client its exit status."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    _, files, _, _ = socket.recv_fds(client, 1, 3)
    request = json.loads(client.makefile("rb").readline())
    child = os.fork()
    if child == 0:
        run(client, request, files)
    for number in files:
        os.close(number)
    _, status = os.waitpid(child, 0)
    with contextlib.suppress(OSError):
        client.sendall(str(os.waitstatus_to_exitcode(status) & 255).encode())


def run(client: socket.socket, request: dict[str, Any], files: list[int]) -> None:
    """Become the process that the client stands for."""
    os.setsid()
    os.chdir(request["folder"])
    os.environ.clear()
    os.environ.update(request["environment"])
    for number, file in enumerate(files):
        os.dup2(file, number)
        os.close(file)
    sys.stdin = os.fdopen(0, encoding="utf-8")
    # Unbuffered, as with `-u`: the SDK relies on that.
    sys.stdout, sys.stderr = (
        io.TextIOWrapper(os.fdopen(number, "wb", buffering=0), encoding="utf-8", write_through=True)
        for number in (1, 2)
    )
    threading.Thread(target=end_with_client, args=(client,), daemon=True).start()
    os._exit(run_python([argument for argument in request["arguments"] if argument != "-u"]))


def end_with_client(client: socket.socket) -> None:
    client.recv(1)
    os.kill(os.getpid(), signal.SIGKILL)


def run_python(arguments: list[str]) -> int:
    """What `python ARGUMENTS` does, which are `-m MODULE …` or `SCRIPT …`; its exit status."""
    sys.path[1:1] = filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))
    status: object = 0
    try:
        if arguments[0] == "-m":
            sys.argv, sys.path[0] = arguments[1:], str(Path.cwd())
            runpy.run_module(arguments[1], run_name="__main__", alter_sys=True)
        else:
            sys.argv, sys.path[0] = arguments, str(Path(arguments[0]).parent)
            runpy.run_path(arguments[0], run_name="__main__")
    except SystemExit as ended:
        status = ended.code or 0
        if isinstance(status, str):
            print(status, file=sys.stderr)
    except Exception:  # noqa: BLE001 - the interpreter prints whatever a program raises
        traceback.print_exc()
        status = 1
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError):
            stream.flush()
    return status if isinstance(status, int) else 1


if __name__ == "__main__":
    serve(sys.argv[1], sys.argv[2:])
