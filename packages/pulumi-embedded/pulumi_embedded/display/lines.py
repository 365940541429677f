"""Shows a run as lines, in the order and the words of the CLI: steps, diagnostics, outputs, summary, duration."""

import json
import shutil
import sys
import textwrap
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final, TextIO

from pulumi_embedded.deployment import events
from pulumi_embedded.deployment.events import ResourceStep
from pulumi_embedded.display import details, property_lines
from pulumi_embedded.properties import urns, values
from pulumi_embedded.properties.paths import parse_path
from pulumi_embedded.properties.values import Properties

SYMBOLS: Final = {
    events.SAME: "  ",
    events.CREATE: "+ ",
    events.UPDATE: "~ ",
    events.DELETE: "- ",
    events.REPLACE: "+-",
    events.CREATE_REPLACEMENT: "++",
    events.DELETE_REPLACED: "--",
    events.REFRESH: "~ ",
    events.READ: "> ",
}
# How each operation is described while it is planned, while it runs, and when it is done.
WORDS: Final = {
    events.CREATE: ("create", "creating", "created"),
    events.UPDATE: ("update", "updating", "updated"),
    events.DELETE: ("delete", "deleting", "deleted"),
    events.REPLACE: ("replace", "replacing", "replaced"),
    events.CREATE_REPLACEMENT: ("create replacement", "creating replacement", "created replacement"),
    events.DELETE_REPLACED: ("delete original", "deleting original", "deleted original"),
    events.REFRESH: ("refresh", "refreshing", "refreshed"),
    events.READ: ("read", "reading", "read"),
    events.SAME: ("", "", ""),
}
_COLORS: Final = {"+ ": "32", "~ ": "33", "- ": "31", "+-": "35", "++": "32", "--": "31"}
STYLES: Final = {"+ ": "green", "~ ": "yellow", "- ": "red", "+-": "magenta", "++": "green", "--": "red"}
SEVERITIES: Final = ("debug", "info", "warning", "error")
# The operations in the CLI's count of changes. A replacement counts once, as `replace`.
_COUNTED: Final = (events.CREATE, events.UPDATE, events.REPLACE, events.DELETE)
_EPHEMERAL_SECONDS: Final = 5.0


@dataclass
class _Message:
    severity: int
    urn: str
    text: str


@dataclass
class RunReport:
    """The steps, messages and outputs of a preview or an update."""

    steps: list[ResourceStep] = field(default_factory=list)
    messages: list[_Message] = field(default_factory=list)
    failed_urns: set[str] = field(default_factory=set)
    old_outputs: Properties | None = None
    new_outputs: Properties | None = None
    started: float = field(default_factory=time.monotonic)

    @property
    def step_counts(self) -> Counter[str]:
        """How many steps each operation has, without hidden ones."""
        return Counter(step.op for step in self.steps if not step.hidden)

    @property
    def change_count(self) -> int:
        """How many resources change."""
        counts = self.step_counts
        return sum(counts[op] for op in _COUNTED) + counts[events.DELETE_REPLACED] * (
            not counts[events.REPLACE]
        )


class Display:
    """Shows a preview, an update, or one after the other, as lines."""

    def __init__(
        self, stack: str, *, color: bool = False, details: bool = False, stream: TextIO | None = None
    ) -> None:
        self._stack = stack
        self._color = color
        self._details = details
        self._stream = stream or sys.stdout
        self._lock = threading.RLock()
        self._secrets: list[str] = []
        self._last_shown: dict[str, float] = {}
        self._parents: dict[str, str] = {}
        self.closed = False
        self.on_closed: Callable[[], None] = lambda: None
        self.without_outputs = False
        self.preview = False
        self.report = RunReport()

    def set_secrets(self, secrets: list[str]) -> None:
        """Mask these texts: verbatim, as part of JSON, and line by line (as in key files).

        As in the CLI, texts of less than three characters and `true` and `false` are not masked.
        """
        forms = {*secrets, *(line.strip() for text in secrets for line in text.splitlines())}
        forms |= {json.dumps(text, ensure_ascii=ascii_)[1:-1] for text in secrets for ascii_ in (True, False)}
        masked = {form for form in forms if len(form) > 2 and form.lower() not in ("true", "false")}
        self._secrets = sorted(masked, key=len, reverse=True)

    def start_run(self, title: str, *, preview: bool) -> None:
        self.preview = preview
        self.report = RunReport()
        self._last_shown, self._parents = {}, {}
        self.print_line(f"{title} ({self._stack}):")

    # Methods of the `Listener` interface.

    def on_step_started(self, step: ResourceStep) -> None:
        if not self.preview and not self._details and not step.hidden and step.op != events.REFRESH:
            self._row(step, 1)

    def on_step_ended(self, step: ResourceStep) -> None:
        with self._lock:
            self.report.steps.append(step)
            is_stack = step.type == urns.STACK_TYPE
            if self._details and is_stack and step.op in (events.SAME, events.CREATE):
                self._show_details(step)
            elif step.op == events.SAME or step.hidden or (step.op == events.REFRESH and not step.note):
                return
            elif self._details:
                self._show_details(step)
            else:
                self._row(step, 0 if self.preview else 2)

    def on_step_failed(self, step: ResourceStep, message: str) -> None:
        self.report.failed_urns.add(step.urn)
        self._row(step, 1, "**failed**")
        self.on_message(events.ERROR, step.urn, message)

    def on_message(self, severity: int, urn: str, text: str, *, ephemeral: bool = False) -> None:
        if severity == events.DEBUG:
            return
        text = text.rstrip()
        with self._lock:
            if not ephemeral:
                self.report.messages.append(_Message(severity, urn, text))
                return
            last = self._last_shown.get(urn, 0.0)
            if time.monotonic() - last >= _EPHEMERAL_SECONDS:
                self._last_shown[urn] = time.monotonic()
                self.print_line(f"    {label_of(urn)} {text}")

    def on_outputs(self, old: Properties | None, new: Properties) -> None:
        self.report.old_outputs, self.report.new_outputs = old, new

    def outcome_counts(self) -> dict[str, int]:
        return {op: count for op, count in self.report.step_counts.items() if op in events.OUTCOMES}

    # The end of a run: the diagnostics, the outputs and the summary.

    def finish_run(self) -> None:
        """Show diagnostics, outputs, summary and duration."""
        with self._lock:
            self._show_diagnostics()
            self._show_outputs()
            self._show_summary()
            seconds = time.monotonic() - self.report.started
            if not self.preview:
                self.print_line("")
                self.print_line(f"Duration: {_duration(seconds)}")
            self.print_line("")

    def stop(self) -> None:
        """Stop showing what is running."""

    def masked(self, text: str) -> str:
        """The text with secrets replaced by `[secret]`."""
        parts = text.split(
            "[secret]"
        )  # keep existing "[secret]" marks intact: a secret may be a part of that word
        for secret in self._secrets:
            parts = [piece for part in parts for piece in part.split(secret)]
        return "[secret]".join(parts)

    def print_line(self, text: str) -> None:
        """Print a line, unless the reader has closed the output (`up | head -1`)."""
        with self._lock:
            if self.closed:
                return
            try:
                self._stream.write(self.masked(text) + "\n")
                self._stream.flush()
            except BrokenPipeError:
                self.closed = True
                self.on_closed()

    def _row(self, step: ResourceStep, tense: int, word: str = "") -> None:
        symbol = self._paint(SYMBOLS[step.op])
        parts = [f" {symbol} {label_of(step.urn)}", word or WORDS[step.op][tense]]
        if tense == 2 and step.seconds:
            parts.append(f"({seconds_text(step.seconds)})")
        if step.diff is not None and step.op != events.CREATE:
            parts.append(changed_keys(step))
        if step.note:
            parts.append(f"[{step.note}]")
        self.print_line(" ".join(part for part in parts if part))

    def _show_details(self, step: ResourceStep) -> None:
        if step.op in (events.CREATE_REPLACEMENT, events.DELETE_REPLACED):
            # These two steps are reported together as one replacement.
            return
        resource = step.new or step.old
        self._parents[step.urn] = resource.parent if resource else ""
        indent = details.depth_of(step.urn, self._parents)
        locked = " \N{LOCK}" if resource and resource.protect else ""
        word = step.op + (
            "[retain]" if resource and resource.retain_on_delete and step.op != events.SAME else ""
        )
        self.print_line(f"{'    ' * indent}{self._paint(SYMBOLS[step.op])}{step.type}: ({word}){locked}")
        self._print_marked_lines(details.step_lines(step, indent))
        if not self.preview and step.type != urns.STACK_TYPE and step.op != events.REFRESH:
            lines = details.output_lines(step, indent + 1)
            self._print_marked_lines([f"{'    ' * (indent + 1)}--outputs:--", *lines] if lines else [])

    def _print_marked_lines(self, lines: list[str]) -> None:
        """Print lines, each with its mark in color."""
        for text in lines:
            mark = text.lstrip()[:2]
            self.print_line(text.replace(mark, self._paint(mark), 1) if mark in _COLORS else text)

    def _show_diagnostics(self) -> None:
        if not self.report.messages:
            return
        self.print_line("")
        self.print_line("Diagnostics:")
        by_urn: dict[str, list[_Message]] = {}
        for message in self.report.messages:
            by_urn.setdefault(message.urn, []).append(message)
        for urn, messages in by_urn.items():
            self.print_line(
                f"  {label_of(urn, '(') + '):' if urn else f'pulumi:pulumi:Stack ({self._stack}):'}"
            )
            for message in messages:
                mark = "" if message.severity == events.INFO else f"{SEVERITIES[message.severity]}: "
                color = {events.ERROR: "31", events.WARNING: "33"}.get(message.severity)
                # Mask secrets before wrapping: a secret that is broken into two lines would not be found.
                text = self._wrap_to_terminal(self.masked(mark + message.text))
                if color:
                    text = text.replace(mark.rstrip(), self._ansi(mark.rstrip(), color), 1)
                self.print_line("    " + text.replace("\n", "\n    "))

    def _wrap_to_terminal(self, text: str) -> str:
        """On a terminal, lines broken at spaces, with room for the indent of diagnostics."""
        if not self._stream.isatty():
            return text
        width = max(shutil.get_terminal_size().columns - 4, 1)
        return "\n".join(
            textwrap.fill(line, width, subsequent_indent="  ", break_long_words=False, break_on_hyphens=False)
            for line in text.split("\n")
        )

    def _show_outputs(self) -> None:
        old, new = self.report.old_outputs, self.report.new_outputs
        if new is None or self.without_outputs:
            return
        if old is None:
            lines = property_lines.lines_of(new, 1)
        else:
            lines = property_lines.lines_of_outputs(
                old, new, 1, property_lines.DiffView(preview=self.preview), sames=not self.preview
            )
        if lines:
            self.print_line("    --outputs:--" if self._details else "\nOutputs:")
            self._print_marked_lines(lines)

    def _show_summary(self) -> None:
        counts = self.report.step_counts
        self.print_line("")
        self.print_line("Resources:")
        kinds = 0
        for op in _COUNTED:
            if counts[op]:
                kinds += 1
                planned, _, done = WORDS[op]
                self.print_line(
                    f"    {self._paint(SYMBOLS[op])}{counts[op]} {'to ' + planned if self.preview else done}"
                )
        pieces = [f"{self.report.change_count} changes"] if kinds > 1 else []
        if counts[events.SAME]:
            pieces.append(f"{counts[events.SAME]} unchanged")
        if pieces or not kinds:
            self.print_line("    " + (". ".join(pieces) or "0 unchanged"))
        if self.report.failed_urns:
            self.print_line(f"    {len(self.report.failed_urns)} errored")

    def _paint(self, symbol: str) -> str:
        return self._ansi(symbol, _COLORS.get(symbol, ""))

    def _ansi(self, text: str, code: str) -> str:
        return f"\033[{code}m{text}\033[0m" if self._color and code and text.strip() else text


def map_texts(value: Any, change: Callable[[str], str]) -> Any:
    """The value with all its texts changed, keys included."""
    if isinstance(value, str):
        return change(value)
    if isinstance(value, dict):
        value = {change(key): item for key, item in value.items()}
    return values.convert_items(value, lambda item: map_texts(item, change))


def report_as_json(report: RunReport, config: dict[str, str], masked: Callable[[str], str]) -> str:
    """A preview as `--json` shows it. `masked` removes secrets from a text."""
    steps = [
        {
            "op": step.op,
            "urn": step.urn,
            **({"provider": step.new.provider} if step.new and step.new.provider else {}),
            **({"oldState": details.resource_as_json(step.old)} if step.old else {}),
            **({"newState": details.resource_as_json(step.new)} if step.new else {}),
            **details.reasons_as_json(step),
        }
        for step in report.steps
        if not step.hidden
    ]
    messages = [
        {"urn": message.urn, "message": message.text + "\n", "severity": SEVERITIES[message.severity]}
        for message in report.messages
    ]
    content = {
        "config": config,
        "steps": steps,
        **({"diagnostics": messages} if messages else {}),
        "duration": int((time.monotonic() - report.started) * 1e9),
        "changeSummary": {
            op: count for op, count in report.step_counts.items() if op in (*_COUNTED, events.SAME)
        },
    }
    return json.dumps(map_texts(content, masked), indent=4, ensure_ascii=False)


def label_of(urn: str, between: str = "") -> str:
    """`type name`, or the Stack if the URN is empty."""
    if not urn:
        return "pulumi:pulumi:Stack"
    parsed = urns.parse_urn(urn)
    return f"{_short_type(parsed.type)} {between}{parsed.name}"


def _short_type(type_: str) -> str:
    """`aws:s3/bucket:Bucket` becomes `aws:s3:Bucket`; other types stay as they are."""
    parts = type_.split(":")
    if len(parts) == 3 and parts[2]:
        module, slash, last = parts[1].rpartition("/")
        if slash and last == parts[2][0].lower() + parts[2][1:]:
            return f"{parts[0]}:{module}:{parts[2]}"
    return type_


def changed_keys(step: ResourceStep) -> str:
    """`[diff: +kind~tags,text]`: the top-level properties that are added, deleted and changed."""
    if step.diff is None:
        return ""
    marks = {"add": "+", "delete": "-"}
    found: dict[str, str] = {}
    for path, kind in step.diff.detailed.items():
        parts = parse_path(path)
        found[str(parts[0])] = marks.get(kind.removesuffix("-replace"), "~") if len(parts) == 1 else "~"
    for key in step.diff.replaces:
        found.setdefault(key, "~")
    keys = [key for key in sorted(found) if key != "__provider" or len(found) == 1]
    groups = {mark: ",".join(key for key in keys if found[key] == mark) for mark in "+-~"}
    text = "".join(mark + names for mark, names in groups.items() if names)
    return f"[diff: {text}]" if text else ""


def seconds_text(seconds: float) -> str:
    """A duration, with fewer decimals the longer it is."""
    return f"{seconds:.2f}s" if seconds < 1 else f"{seconds:.1f}s" if seconds < 10 else f"{seconds:.0f}s"


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes}m{rest}s" if minutes else f"{max(rest, 1)}s"
