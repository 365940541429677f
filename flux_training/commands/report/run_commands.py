"""The commands that a run's page offers to copy."""

from flux_training.training.words import flux_command


def run_commands(
    job: str, run_id: str, stack: str, *, is_finished: bool, has_others: bool, has_checkpoints: bool = False
) -> list[tuple[str, str]]:
    """What a reader may want to do with a run, and the command for it.

    `has_others`: whether the job has other runs to compare it with. `has_checkpoints`: whether they were fetched.
    """
    which = f"{job} --run {run_id}"
    fetch = ("Get these results, with all checkpoints", f"fetch {which} --checkpoints")
    export = ("Make a folder for Hugging Face, Civitai and ComfyUI", f"export {which} --to ~/loras/{job}")
    found = [
        *([] if is_finished and has_checkpoints else [fetch]),
        *([export] if is_finished else []),
        *([("Compare all runs of this job", f"report {job} --compare")] if has_others else []),
    ]
    return [(what, without_quotes(arguments, stack)) for what, arguments in found]


def without_quotes(arguments: str, stack: str) -> str:
    """The command without the quotes that a sentence puts around it."""
    return flux_command(arguments, stack).strip("`")
