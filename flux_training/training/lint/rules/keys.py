"""Rules about single keys of train.yml, from the table of what ai-toolkit reads (train_yml/trainer_keys.json)."""

from collections.abc import Callable, Iterator

from flux_training.training.finding import Problem
from flux_training.training.lint.registry import Area, Subject, describe_value
from flux_training.training.names import START_WORDS
from flux_training.training.train_yml.key_values import FaultKind, value_fault
from flux_training.training.train_yml.trainer_config import uses_variable
from flux_training.training.train_yml.trainer_keys import COMMIT, TRAINER_KEYS, KeyEntry, entries
from flux_training.training.words import nearest, with_same_last_part

AREA = Area("keys")
USUAL_SECTIONS = ("network", "save", "datasets[]", "train", "model", "sample")
DIFFUSION_TRAINER_SINCE = "2025-09-16"


@AREA.error(
    "key-unknown",
    f"ai-toolkit (commit {COMMIT[:8]}) silently ignores an unknown key and uses its default",
    "correct or delete the key; silence this rule if your own image has a newer ai-toolkit",
)
def unknown_keys(job: Subject) -> Iterator[Problem]:
    if not job.config or job.config.fault:
        return
    config = job.config.document["config"]
    known = TRAINER_KEYS["config"]
    for key in config.keys() - known.keys():
        yield job.train_yml_problem(f"unknown key config.{key}{nearest(key, known)}", "config", key)
    processes = config.get("process")
    for number, process in enumerate(processes if isinstance(processes, list) else []):
        for entry in entries(process):
            if entry.spec is None:
                message = f"unknown key {'.'.join(entry.place)}{_nearest_known_key(entry)}"
                yield job.train_yml_problem(message, "config", "process", str(number), *entry.place)


def _nearest_known_key(entry: KeyEntry) -> str:
    """The same key in a section that most jobs have, or a similar one in the same section."""
    key = entry.place[-1]
    homes = [f"{section}.{key}" for section in USUAL_SECTIONS if key in TRAINER_KEYS[section]]
    return with_same_last_part(key, homes) or nearest(key, TRAINER_KEYS[entry.section_name])


@AREA.error("key-repeated", "if a key is repeated, YAML uses only the last one", "delete all but one")
def repeated_keys(job: Subject) -> Iterator[Problem]:
    for key, line in job.config.repeated if job.config else ():
        yield Problem(str(job.config.path) if job.config else "", f"{key} occurs a second time", line)


@AREA.error(
    "key-new",
    "the ai-toolkit in the stack's image is older than this key or value: it ignores an unknown key and stops at an unknown value",
    "delete the key, use another value, or use a newer image (docker/README.md); for your own image, set cluster.trainerDate to the date of its ai-toolkit",
)
def keys_newer_than_the_trainer(job: Subject) -> Iterator[Problem]:
    for entry in entries(job.process):
        name, since = _newest_part(entry)
        if since > job.trainer_date:
            message = f"{name} exists since {since}, the image has ai-toolkit of {job.trainer_date}"
            yield job.process_problem(message, *entry.place)
    if job.process.get("type") == "diffusion_trainer" and job.trainer_date < DIFFUSION_TRAINER_SINCE:
        message = f"type diffusion_trainer exists since {DIFFUSION_TRAINER_SINCE}, the image has ai-toolkit of {job.trainer_date}"
        yield job.process_problem(message, "type")


def _newest_part(entry: KeyEntry) -> tuple[str, str]:
    """(what to call it, since when it exists) of a key or its choice, whichever is newer."""
    spec = entry.spec
    if spec is None:
        return entry.name, ""
    values = entry.value if isinstance(entry.value, list) else [entry.value]
    choices = [spec.choice_of(value) for value in values if isinstance(value, str)]
    choice_since, choice = max(((spec.choices_since.get(one, ""), one) for one in choices), default=("", ""))
    if choice_since > spec.since:
        return f"{entry.name} {choice}", choice_since
    return entry.name, spec.since


def _keys_without_own_rule(job: Subject) -> Iterator[KeyEntry]:
    """The keys whose values have no rule of their own, as far as ai-toolkit uses them."""
    for entry in entries(job.process):
        if not entry.spec or entry.spec.rule or uses_variable(entry.value):
            continue
        if entry.spec.is_used(entry.section, job.process):
            yield entry


def _value_rule(code: str, kind: FaultKind, why: str, fix: str) -> None:
    def check(job: Subject) -> Iterator[Problem]:
        for entry in _keys_without_own_rule(job):
            fault = entry.spec and value_fault(entry.spec, entry.value)
            if fault and fault.kind == kind:
                yield job.process_problem(
                    f"{describe_value(entry.name, entry.value)}: {fault.rule}", *entry.place
                )

    register: Callable[[Callable[[Subject], Iterator[Problem]]], object] = AREA.error(code, why, fix)
    register(check)


_value_rule(
    "value-type",
    FaultKind.TYPE,
    "ai-toolkit stops when it uses a value of the wrong type, often only after the model has been loaded and paid for",
    "correct the value as described; numbers and true/false have no quotes",
)
_value_rule(
    "value-range",
    FaultKind.RANGE,
    "ai-toolkit or PyTorch stops at a value outside the range",
    "choose a value within the range",
)
_value_rule(
    "value-choice",
    FaultKind.CHOICE,
    f"ai-toolkit (commit {COMMIT[:8]}) stops at a value that is not one of its choices",
    "use one of the choices; silence this rule if your own image supports more",
)
_value_rule(
    "value-misread",
    FaultKind.MISREAD,
    "ai-toolkit reports no error, but trains with something other than this value",
    "correct the value as described; true and false have no quotes",
)
_value_rule(
    "node-path",
    FaultKind.PATH,
    "a node has only the model and the job's images; if another file is missing, ai-toolkit stops or silently trains without it",
    f"delete the key, or use a folder of the job whose name begins with {START_WORDS}; silence this rule if your own image has the file",
)
