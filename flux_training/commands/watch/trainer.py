"""Whether the nodes have the ai-toolkit that lint assumed."""

from contextlib import suppress
from pathlib import Path

from flux_training.commands.stack.file import stack_settings
from flux_training.training.environment import pulumi_command
from flux_training.training.errors import BadInput
from flux_training.training.jobs.declare import trainer_date
from flux_training.training.settings import SINGLE_CLUSTER
from flux_training.training.train_yml.trainer_version import version_mismatch
from flux_training.training.words import flux_command


def assumed_trainers(root: Path, stack: str) -> dict[str, str]:
    """The day of the ai-toolkit that lint assumes, by cluster. Empty if the stack's file is missing or wrong: `flux lint` says why."""
    with suppress(BadInput):
        settings = stack_settings(root, stack)
        return {cluster: trainer_date(settings, cluster) for cluster in settings.all_clusters}
    return {}


def trainer_note(reported: str, assumed_date: str, cluster: str, stack: str) -> str:
    """What to say about the version that a node reports; empty if it is the assumed one, or either is unknown."""
    mismatch = version_mismatch(reported, assumed_date) if assumed_date else None
    if mismatch is None:
        return ""
    if not mismatch.date:
        return f"{mismatch.message}; a newer version of this project may know it"
    section = "cluster" if cluster == SINGLE_CLUSTER else f"clusters.{cluster}"
    command = pulumi_command(f"config set --path {section}.trainerDate {mismatch.date}", stack)
    return f"{mismatch.message}; {command} tells lint, and {flux_command('lint', stack)} checks again"
