"""Runs the Pulumi program, like the CLI's `pulumi-language-python-exec`.

The engine starts this file as a script with the program's own interpreter, in the program's folder; it must not import
the engine. It reads its settings as one line of JSON from stdin, and ends when stdin ends, because then the engine has.
Exit status: 0; 32 (the CLI's number) if the program's failure was already reported; otherwise 1.

The SDK is changed at run time in three places, the functions `_patch_…`; the package's README says why.
"""

import asyncio
import gc
import json
import logging
import os
import pickle
import runpy
import sys
import threading
import traceback
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace
from typing import Any

ALREADY_REPORTED = 32


def main() -> int:
    """Run the program that the settings name, and return its exit status."""
    from lazy_automation import import_automation_lazily  # type: ignore[import-not-found]  # beside this script

    sys.path[0] = os.getcwd()  # noqa: PTH109 - replaces this script's folder, as `python __main__.py` would set it
    # A program's objects mostly live until it ends. With Python's default thresholds, garbage collection
    # takes a quarter of the CPU time at 1,000 resources.
    gc.set_threshold(100_000, 50, 100)
    import_automation_lazily()
    try:
        import pulumi
        import pulumi.dynamic.dynamic as dynamic
    except ImportError as error:
        print(f"{sys.executable} cannot import the SDK (pip install pulumi): {error}", file=sys.stderr)
        return 1
    settings = json.loads(sys.stdin.buffer.readline() or b"{}")
    if not settings:
        return 1
    threading.Thread(target=_exit_with_engine, daemon=True).start()
    gc.freeze()
    _patch_debug_log(pulumi)
    _patch_provider_pickling(dynamic)
    _patch_wait_for_outputs(pulumi)
    _configure(pulumi, settings)
    return _run(pulumi, settings)


def _exit_with_engine() -> None:
    sys.stdin.buffer.read()
    os._exit(1)


def _patch_debug_log(pulumi: Any) -> None:
    """Turn off debug messages: each one is a blocking call to the engine, which ignores it."""
    pulumi.log.debug = lambda *_args, **_kwargs: None


def _patch_provider_pickling(dynamic: Any) -> None:
    """Undo what `serialize_provider` leaves behind: a wrapper around the pickler, one more for each resource.

    Without this, a program ends in a RecursionError at about the 319th dynamic resource whose provider class it defines
    itself (SDK 3.272).
    """
    serialize = dynamic.serialize_provider
    pickler: Any = pickle._Pickler  # the class that serialize_provider patches

    def serialize_and_restore(provider: Any) -> Any:
        original = pickler._batch_setitems
        try:
            return serialize(provider)
        finally:
            pickler._batch_setitems = original

    dynamic.serialize_provider = serialize_and_restore


def _patch_wait_for_outputs(pulumi: Any) -> None:
    """Wait for all outputs together at the end of the program.

    SDK 3.272 waits for the first one to complete, again and again, which is quadratic in the number of outputs. Here the
    wait ends at a failure, at completion, or after a second, when outputs that were added meanwhile are included.
    """

    async def wait(tasks: Any, return_when: str = asyncio.ALL_COMPLETED) -> Any:
        if return_when == asyncio.FIRST_COMPLETED:
            return await asyncio.wait(tasks, timeout=1.0, return_when=asyncio.FIRST_EXCEPTION)
        return await asyncio.wait(tasks, return_when=return_when)

    pulumi.runtime.stack.asyncio = SimpleNamespace(**{**vars(asyncio), "wait": wait})


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
    # When a program fails, some futures are never awaited, and asyncio would log a warning for each.
    logging.getLogger("asyncio").setLevel(logging.CRITICAL)

    def run_program() -> None:
        runpy.run_path(program, run_name="__main__")

    try:
        loop.run_until_complete(pulumi.runtime.run_in_stack(run_program))
    except pulumi.RunError as error:
        pulumi.log.error(str(error))
        return 1
    except Exception as error:  # noqa: BLE001 - whatever the program raises is reported
        pulumi.log.error("Program failed with an unhandled exception:\n" + _program_traceback(error))
        return ALREADY_REPORTED
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
    return 0


def _program_traceback(error: BaseException) -> str:
    """The traceback without the frames of the interpreter, this file and the SDK.

    An output that fails later, in the SDK, has no frame of the program: then the SDK's frames are shown.
    """
    folder = os.getcwd()  # noqa: PTH109 - compared with file names in the form that Python writes
    frames = traceback.extract_tb(error.__traceback__)
    packages = [frame for frame in frames if "site-packages" in frame.filename]
    own = [frame for frame in frames if frame.filename.startswith(folder) and frame not in packages]
    shown = own or packages
    lines = ["Traceback (most recent call last):\n", *traceback.format_list(shown)] if shown else []
    return "".join([*lines, *traceback.format_exception_only(error)]).rstrip()


if __name__ == "__main__":
    status = 1
    try:
        status = main()
    except SystemExit as exit_:
        status = exit_.code if isinstance(exit_.code, int) else int(exit_.code is not None)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)  # exits without waiting for threads that are blocked on the engine
