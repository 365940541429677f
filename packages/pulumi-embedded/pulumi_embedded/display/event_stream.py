"""The engine events of a run as JSON, as the CLI writes them: for `up --json`, `--event-log` and the Automation API.

Each event has a sequence number, a timestamp in seconds, and one content: `preludeEvent`, `resourcePreEvent`,
`resOutputsEvent`, `resOpFailedEvent`, `diagnosticEvent`, `summaryEvent`, or `cancelEvent`, which is the last one. Their
fields are those that `pulumi.automation.events` reads. Debug messages are left out.
"""

import json
import queue
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import grpc

from pulumi_embedded.deployment import events
from pulumi_embedded.deployment.events import Listener, ResourceStep
from pulumi_embedded.display import details
from pulumi_embedded.display.lines import SEVERITIES, map_texts
from pulumi_embedded.errors import EngineError
from pulumi_embedded.program.grpc_stubs import GRPC_OPTIONS, events_pb2, events_pb2_grpc
from pulumi_embedded.properties.values import Properties
from pulumi_embedded.state.serialization import Resource

WriteLine = Callable[[str], None]

_GRPC: Final = "tcp://"
# How long to wait for the event server to answer, which it does when it has read all events.
_GRPC_SECONDS: Final = 10.0
_SHOWN_KEYS: Final = (
    "type",
    "urn",
    "custom",
    "delete",
    "protect",
    "retainOnDelete",
    "inputs",
    "outputs",
    "initErrors",
)


class EventStream:
    """A listener that writes each event of a run as a line of JSON, and passes it on to another one.

    `masked` removes secrets from a text. Between runs, and in runs that were not started here, nothing is written.
    """

    def __init__(self, listener: Listener, masked: Callable[[str], str], write_line: WriteLine) -> None:
        self._listener = listener
        self._masked = masked
        self._write_line = write_line
        self._lock = threading.Lock()
        self._sequence = 0
        self._is_running = False
        self._preview = False
        self._announced: set[ResourceStep] = set()
        self._started = time.monotonic()

    def start_run(self, config: dict[str, str], *, preview: bool) -> None:
        """Begin a run. `config`: the configuration as it may be shown."""
        self._started = time.monotonic()
        self._announced = set()
        self._preview = preview
        self._is_running = True
        self._emit("preludeEvent", {"config": config})

    def finish_run(self, *, succeeded: bool) -> None:
        """End the run that `start_run` began."""
        summary = {
            "maybeCorrupt": False,
            "durationSeconds": int(time.monotonic() - self._started),
            "resourceChanges": self.outcome_counts(),
            "PolicyPacks": {},
            "isPreview": self._preview,
            "result": "succeeded" if succeeded else "failed",
        }
        self._emit("summaryEvent", summary)
        self._emit("cancelEvent", {})
        self._is_running = False

    # Methods of the `Listener` interface.

    def on_step_started(self, step: ResourceStep) -> None:
        self._announced.add(step)
        self._emit("resourcePreEvent", self._step(step))
        self._listener.on_step_started(step)

    def on_step_ended(self, step: ResourceStep) -> None:
        if step not in self._announced:
            self._emit("resourcePreEvent", self._step(step))
        self._emit("resOutputsEvent", self._step(step))
        self._listener.on_step_ended(step)

    def on_step_failed(self, step: ResourceStep, message: str) -> None:
        self._diagnostic(events.ERROR, step.urn, message, ephemeral=False)
        self._emit("resOpFailedEvent", {"metadata": _step_metadata(step), "status": 0, "steps": 1})
        self._listener.on_step_failed(step, message)

    def on_message(self, severity: int, urn: str, text: str, *, ephemeral: bool = False) -> None:
        if severity != events.DEBUG:
            self._diagnostic(severity, urn, text, ephemeral=ephemeral)
        self._listener.on_message(severity, urn, text, ephemeral=ephemeral)

    def on_outputs(self, old: Properties | None, new: Properties) -> None:
        self._listener.on_outputs(old, new)

    def outcome_counts(self) -> dict[str, int]:
        return self._listener.outcome_counts()

    def _step(self, step: ResourceStep) -> dict[str, Any]:
        planning = {"planning": True} if self._preview else {}
        return {"metadata": _step_metadata(step), **planning}

    def _diagnostic(self, severity: int, urn: str, text: str, *, ephemeral: bool) -> None:
        content = {
            **({"urn": urn} if urn else {}),
            "prefix": f"{SEVERITIES[severity]}: ",
            "message": text.rstrip() + "\n",
            "color": "never",
            "severity": SEVERITIES[severity],
            **({"ephemeral": True} if ephemeral else {}),
        }
        self._emit("diagnosticEvent", content)

    def _emit(self, kind: str, content: dict[str, Any]) -> None:
        if not self._is_running:
            return
        shown = map_texts(content, self._masked)
        with self._lock:
            event = {"sequence": self._sequence, "timestamp": int(time.time()), kind: shown}
            self._sequence += 1
            self._write_line(json.dumps(event, separators=(",", ":"), ensure_ascii=False))


def _step_metadata(step: ResourceStep) -> dict[str, Any]:
    provider = step.new.provider if step.new else step.old.provider if step.old else ""
    reasons = details.reasons_as_json(step)
    detailed = {
        path: {"diffKind": change["kind"], "inputDiff": change["inputDiff"]}
        for path, change in reasons.get("detailedDiff", {}).items()
    }
    return {
        "op": step.op,
        "urn": step.urn,
        "type": step.type,
        "old": _state(step.old),
        "new": _state(step.new),
        **({"keys": reasons["replaceReasons"]} if "replaceReasons" in reasons else {}),
        **({"diffs": reasons["diffReasons"]} if "diffReasons" in reasons else {}),
        "detailedDiff": detailed or None,
        "logical": True,
        "provider": provider,
    }


def _state(resource: Resource | None) -> dict[str, Any] | None:
    """A resource as events show it, with secrets masked."""
    if resource is None:
        return None
    shown = details.resource_as_json(resource)
    return {
        **{key: shown[key] for key in _SHOWN_KEYS if key in shown},
        "id": resource.id,
        "parent": resource.parent,
        "provider": resource.provider,
    }


@contextmanager
def open_event_log(target: str) -> Iterator[WriteLine]:
    """Where `--event-log` writes its lines: a file, or with `tcp://HOST:PORT` the Automation API's server.

    Raises EngineError if the file cannot be written or nothing answers at the address.
    """
    opened = (
        _connect_to_server(target.removeprefix(_GRPC)) if target.startswith(_GRPC) else _open_log_file(target)
    )
    with opened as write_line:
        yield write_line


@contextmanager
def _open_log_file(path: str) -> Iterator[WriteLine]:
    try:
        file = Path(path).open("w", encoding="utf-8", buffering=1)  # noqa: SIM115 - closed below; this only checks that it opens
    except OSError as error:
        raise EngineError(f"--event-log {path}: {error.strerror or error}") from None
    with file:
        yield lambda line: print(line, file=file)


@contextmanager
def _connect_to_server(address: str) -> Iterator[WriteLine]:
    lines: queue.SimpleQueue[str | None] = queue.SimpleQueue()
    requests = (events_pb2.EventRequest(event=line) for line in iter(lines.get, None))
    with grpc.insecure_channel(address, options=GRPC_OPTIONS) as channel:
        answer = events_pb2_grpc.EventsStub(channel).StreamEvents.future(requests)
        try:
            yield lines.put
        finally:
            lines.put(None)
            try:
                answer.result(timeout=_GRPC_SECONDS)
            except (grpc.RpcError, grpc.FutureTimeoutError):
                answer.cancel()
                message = f"warning: not all events reached the server at {_GRPC}{address} of --event-log"
                print(message, file=sys.stderr)
