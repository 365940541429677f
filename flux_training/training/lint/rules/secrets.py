"""Rules about secrets: captions and train.yml are stored in git, in the bucket, and on other people's computers."""

from collections.abc import Iterator

from flux_training.training.finding import Problem
from flux_training.training.lint.registry import Area, Subject
from flux_training.training.lint.secret_patterns import find_secrets, names_a_secret

AREA = Area("secrets")
ALWAYS = "the owner of any node can read it"
FIX = "remove it and revoke the key where it was issued: git's history keeps it"


@AREA.error("caption-secret", "captions are uploaded to the bucket and to every node", FIX, always=ALWAYS)
def secrets_in_captions(job: Subject) -> Iterator[Problem]:
    for caption in job.captions:
        for line, kind in find_secrets(caption.text):
            yield job.dataset_problem(caption.name, f"contains what looks like a {kind}", line)


@AREA.error("config-secret", "train.yml is uploaded to the bucket and to every node", FIX, always=ALWAYS)
def secrets_in_train_yml(job: Subject) -> Iterator[Problem]:
    if not job.config or not job.config.raw:
        return
    text = job.config.raw.decode(errors="replace")
    found = dict(find_secrets(text))
    for number, line in enumerate(text.splitlines(), 1):
        if names_a_secret(line):
            found.setdefault(number, "secret, judging by its key")
    for number, kind in sorted(found.items()):
        yield Problem(str(job.config.path), f"contains what looks like a {kind}", number)
