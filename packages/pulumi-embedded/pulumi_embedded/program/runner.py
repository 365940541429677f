"""Runs the Pulumi program: what `pulumi-language-python-exec` is to the CLI.

Started as a script under the program's own interpreter (it imports nothing of the engine), in the program's
folder.  Settings come as one JSON line on stdin; when stdin ends, the engine has, and so does this process.
Exit status: 0, or 32 where the reason has been told (the CLI's own number for that), or 1.
"""

from __future__ import annotations

import asyncio
import copyreg
import gc
import json
import logging
import os
import pathlib
import pickle
import runpy
import sys
import threading
import traceback
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace
from typing import Any

TOLD = 32


def main() -> int:
    """Run the program that the settings name."""
    sys.path[0] = os.getcwd()  # noqa: PTH109 - in place of this script's folder, as for `python __main__.py`
    # A program makes many objects and ends: looking for circles among them costs a fifth of its time, imports included.
    gc.set_threshold(100_000, 50, 100)
    try:
        import pulumi
        import pulumi.dynamic.dynamic as dynamic
    except ImportError as error:
        print(f"{sys.executable} cannot import the SDK (pip install pulumi): {error}", file=sys.stderr)
        return 1
    settings = json.loads(sys.stdin.buffer.readline() or b"{}")
    if not settings:
        return 1
    threading.Thread(target=_end_with_the_engine, daemon=True).start()
    _cure_the_sdk(pulumi, dynamic)
    _look_at_one_frame(pulumi)
    _wait_for_all_outputs_at_once(pulumi)
    _keep_a_property_in_one_piece(pulumi)
    _look_for_unknowns_without_a_circle(pulumi)
    gc.freeze()
    _configure(pulumi, settings)
    return _run(pulumi, settings)


def _end_with_the_engine() -> None:
    sys.stdin.buffer.read()
    os._exit(1)


def _cure_the_sdk(pulumi: Any, dynamic: Any) -> None:
    """Two costs of SDK 3.272: `log.debug` is a blocking call each, and every `serialize_provider` leaves one
    more wrapper on the pickler, which ends in a RecursionError at about the 319th resource."""
    pulumi.log.debug = lambda *_args, **_kwargs: None
    serialize = dynamic.serialize_provider
    pickler: Any = pickle._Pickler  # what the SDK itself patches

    def serialize_and_restore(provider: Any) -> Any:
        unpatched = pickler._batch_setitems
        try:
            return serialize(provider)
        finally:
            pickler._batch_setitems = unpatched

    dynamic.serialize_provider = serialize_and_restore


def _look_at_one_frame(pulumi: Any) -> None:
    """SDK 3.272 reads and sends the whole call stack of every resource; the state keeps the place it was declared at."""
    source_pb2, resource = pulumi.runtime.proto.source_pb2, pulumi.runtime.resource
    if not hasattr(resource, "_get_stack_trace"):
        return

    def place_of_declaration() -> Any:
        frame, constructors = sys._getframe(1), 0
        while (
            frame.f_back is not None and constructors < 3
        ):  # Resource's, CustomResource's, and its own class's
            constructors += frame.f_code.co_name == "__init__"
            frame = frame.f_back
        file = pathlib.Path(frame.f_code.co_filename)
        if constructors < 3 or not file.is_absolute():
            return source_pb2.StackTrace()
        place = source_pb2.SourcePosition(uri=file.as_uri(), line=frame.f_lineno)
        return source_pb2.StackTrace(frames=[source_pb2.StackFrame(pc=place)])

    resource._get_stack_trace = place_of_declaration


def _wait_for_all_outputs_at_once(pulumi: Any) -> None:
    """SDK 3.272 ends a program by waiting for the first of all outputs that are left, again and again: a thousand resources of ours have
    20,000, so it looks at some ten million. Here it waits for the first that fails, for all, or for a second: then those that came since count too."""

    async def wait(tasks: Any, return_when: str = asyncio.ALL_COMPLETED) -> Any:
        if return_when == asyncio.FIRST_COMPLETED:
            return await asyncio.wait(tasks, timeout=1.0, return_when=asyncio.FIRST_EXCEPTION)
        return await asyncio.wait(tasks, return_when=return_when)

    pulumi.runtime.stack.asyncio = SimpleNamespace(**{**vars(asyncio), "wait": wait})


def _keep_a_property_in_one_piece(pulumi: Any) -> None:
    """SDK 3.272 keeps each property of a resource, until that is registered, in four futures and a task that waits for them: 4 KB
    for each of 30,000 properties, of which a program reads a few. Here a property is what it came to, and a future is made for
    whoever asks. That nobody has looked at it is no reason to wait for it at the end, because the registration is waited for."""
    rpc, output = pulumi.runtime.rpc, pulumi.output
    if not (hasattr(output, "_OutputData") and hasattr(output.Output, "_from_data")):
        return

    class Property(output.Output):  # type: ignore[misc,name-defined]  # its base is known only now
        """One property of a resource: an output whose future is made when it is read."""

        __slots__ = ("_asked", "_outcome", "_owner")

        def __init__(self, owner: Any) -> None:
            self._owner = owner
            self._outcome: tuple[Any, bool, bool, Any, Exception | None] | None = None
            self._asked: asyncio.Future[Any] | None = None

        # A provider that holds it, to `get` it, is pickled as with the SDK's own class: `pickle` asks for both of these.
        __class__ = property(lambda _self: output.Output)

        def __reduce_ex__(self, _protocol: Any) -> Any:
            return copyreg.__newobj__, (output.Output,), self.__getstate__()  # type: ignore[attr-defined]  # not in typeshed

        @property
        def _data(self) -> asyncio.Future[Any]:
            if self._asked is None:
                self._asked = asyncio.Future()
                self._tell()
            return self._asked

        def _settle(self, value: Any, known: bool, secret: bool, deps: Any, failed: Exception | None) -> None:
            self._outcome = (value, known, secret, deps, failed)
            self._tell()

        def _tell(self) -> None:
            if self._asked is None or self._outcome is None:
                return
            value, known, secret, deps, failed = self._outcome
            if failed is not None:
                self._asked.set_exception(failed)
            else:
                # A set of its own: the SDK adds to it what it finds in the value.
                resources = {self._owner, *(deps or ())}
                self._asked.set_result(
                    output._OutputData(resources=resources, value=value, is_known=known, is_secret=secret)
                )

    def transfer_properties(resource: Any, props: Any, custom: bool) -> dict[str, Any]:
        resolvers = {}
        for name in props:
            if name == "urn" or (name == "id" and custom):  # these two the SDK makes itself
                continue
            found = resource.__dict__[name] = Property(resource)
            resolvers[name] = found._settle
        return resolvers

    rpc.transfer_properties = transfer_properties


def _look_for_unknowns_without_a_circle(pulumi: Any) -> None:
    """SDK 3.272 asks of each value whether a part is unknown, by a function that refers to itself: each time something that only the
    garbage collector takes away, 9 MB of it at a thousand resources."""
    if not hasattr(pulumi.runtime.rpc, "contains_unknowns"):
        return
    is_unknown = pulumi.runtime.known_types.is_unknown

    def contains_unknowns(value: Any) -> bool:
        waiting, seen = [value], set()
        while waiting:
            part = waiting.pop()
            if is_unknown(part):
                return True
            if isinstance(part, (dict, list)) and id(part) not in seen:
                seen.add(id(part))
                # Not `part.values`: an output type may have a property of that name.
                waiting.extend(dict.values(part) if isinstance(part, dict) else part)
        return False

    pulumi.runtime.rpc.contains_unknowns = contains_unknowns


def _configure(pulumi: Any, settings: dict[str, Any]) -> None:
    os.environ["PULUMI_CONFIG"] = json.dumps(settings["config"])
    os.environ["PULUMI_CONFIG_SECRET_KEYS"] = json.dumps(settings["secret_keys"])
    for name in ("project", "stack", "organization", "root_directory"):
        os.environ[f"PULUMI_{name.upper()}"] = settings[name]
    pulumi.runtime.set_all_config(settings["config"], settings["secret_keys"])
    pulumi.runtime.configure(
        pulumi.runtime.Settings(
            monitor=settings["address"],
            engine=settings["address"],
            project=settings["project"],
            stack=settings["stack"],
            organization=settings["organization"],
            root_directory=settings["root_directory"],
            parallel=settings["parallel"],
            dry_run=settings["dry_run"],
        )
    )


def _run(pulumi: Any, settings: dict[str, Any]) -> int:
    program = settings["program"]
    sys.argv = [program]
    loop = asyncio.new_event_loop()
    asyncio.set_event_loop(loop)
    loop.set_default_executor(ThreadPoolExecutor(max_workers=max(settings["parallel"], 1) * 4))
    # A program that fails leaves futures that nobody awaits; asyncio would complain about each.
    logging.getLogger("asyncio").setLevel(logging.CRITICAL)
    try:
        loop.run_until_complete(
            pulumi.runtime.run_in_stack(lambda: _no_result(runpy.run_path(program, run_name="__main__")))
        )
    except pulumi.RunError as error:
        pulumi.log.error(str(error))
        return 1
    except Exception as error:  # noqa: BLE001 - the program's own; whatever it is, it is reported
        pulumi.log.error("Program failed with an unhandled exception:\n" + _own_frames(error))
        return TOLD
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
    return 0


def _no_result(_module: Any) -> None:
    """The program's module is not a result that could be awaited."""


def _own_frames(error: BaseException) -> str:
    """The traceback without the frames of the interpreter, this file and the SDK."""
    folder = os.getcwd()  # noqa: PTH109 - compared with file names as Python writes them
    frames = traceback.extract_tb(error.__traceback__)
    own = [
        frame
        for frame in frames
        if frame.filename.startswith(folder) and "site-packages" not in frame.filename
    ]
    lines = ["Traceback (most recent call last):\n", *traceback.format_list(own or frames)]
    return "".join([*(lines if own else []), *traceback.format_exception_only(error)]).rstrip()


if __name__ == "__main__":
    status = 1
    try:
        status = main()
    except SystemExit as exit_:
        status = exit_.code if isinstance(exit_.code, int) else int(exit_.code is not None)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)  # threads that still wait for the engine are not waited for
