"""Rules about secrets: captions and train.yml lie in git, in the bucket, and on a stranger's gaming PC."""

from __future__ import annotations

from collections.abc import Iterator

from flux_training.training.finding import Problem
from flux_training.training.lint.registry import Area, Subject
from flux_training.training.lint.secret_patterns import found_in, says_secret

AREA = Area("secrets")
WHY_LOUD = "a secret on a stranger's machine is everybody's secret"
MEND = "take it out, and make the key worthless where it was issued: it stays in git's history"


@AREA.error("caption-secret", "captions are sent to the bucket and to every node", MEND, why_loud=WHY_LOUD)
def caption_secret(job: Subject) -> Iterator[Problem]:
    for caption in job.captions:
        for number, kind in found_in(caption.text):
            path = job.in_dataset(caption.name, "").path
            yield Problem(path, f"holds what looks like a {kind}", number)


@AREA.error("config-secret", "train.yml is sent to the bucket and to every node", MEND, why_loud=WHY_LOUD)
def config_secret(job: Subject) -> Iterator[Problem]:
    if not job.config or not job.config.raw:
        return
    text = job.config.raw.decode(errors="replace")
    found = dict(found_in(text))
    for number, line in enumerate(text.splitlines(), 1):
        if says_secret(line):
            found.setdefault(number, "secret under a key that says so")
    for number, kind in sorted(found.items()):
        yield Problem(str(job.config.path), f"holds what looks like a {kind}", number)
