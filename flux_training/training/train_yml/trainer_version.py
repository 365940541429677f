"""Which ai-toolkit a stack's image holds. Keys that are newer are silently ignored there."""

from flux_training.training.train_yml.trainer_keys import DATE, VERSION

# The version that docker/Dockerfile.base pins, and the date of that commit.
PINNED_VERSION, PINNED_DATE = "0.11.0", "2026-07-21"
# SaladCloud's public image was built from an unpinned clone in 2025, so it lacks at least what came later (docs/trainer.md).
PUBLIC_IMAGE_DATE = "2025-04-01"
NEWEST_DATE = DATE
KNOWN_VERSIONS = (VERSION, PINNED_VERSION)


def version_warning(reported: str) -> str:
    """What to say about the version that a node reports; empty if lint knows it, or the node reports none."""
    version = reported.split(" ")[0]
    if not version or version in KNOWN_VERSIONS:
        return ""
    known = " and ".join(KNOWN_VERSIONS)
    return f"the node has ai-toolkit {version}, but lint knows {known}: it may have missed mistakes in train.yml; see cluster.trainerDate"
