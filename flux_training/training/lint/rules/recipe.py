"""Rules about train.yml: whether it can be read, and whether it fits how jobs run here."""

from collections.abc import Iterator

from flux_training.training.finding import Problem
from flux_training.training.lint.registry import Area, Subject, describe_value
from flux_training.training.names import DATASET_FOLDER, START_WORDS
from flux_training.training.train_yml.dataset_folders import folder_name, folder_uses
from flux_training.training.train_yml.trainer_config import OUTPUT_FOLDER, VARIABLE, positive_int
from flux_training.training.words import nearest

AREA = Area("train.yml")
# The process type `ui_trainer` is not supported, because it needs the database of ai-toolkit's web page.
TRAINERS = ("sd_trainer", "diffusion_trainer", "textual_inversion_trainer")
# ai-toolkit's default.
DEFAULT_SAVES_KEPT = 5

AREA.fault(
    "config-missing",
    "a job folder needs a train.yml",
    "copy one from another job folder and change its five marked lines",
)
AREA.fault("config-both", "a job folder has only one of the two", "delete the one you do not use")
AREA.fault("config-unreadable", "train.yml is a short text file", "make it a readable file")
AREA.fault("config-encoding", "the trainer reads train.yml as UTF-8", "save the file as UTF-8")
AREA.fault("config-yaml", "ai-toolkit cannot read it", "correct that line")
AREA.fault("config-value", "ai-toolkit converts the file to JSON and back", "correct the value")
AREA.fault("config-keys", "without them ai-toolkit refuses the file", "see jobs/ for an example")


@AREA.error(
    "config-name",
    "they must be the same, because outputs are synced from output/<job folder>",
    "set it to the folder's name",
    needed=True,
)
def name_that_differs_from_the_folder(job: Subject) -> Iterator[Problem]:
    if job.config is None or job.config.fault:
        return
    name = job.config.document["config"].get("name")
    if name != job.name:
        value = f"`{name}`" if isinstance(name, str) else "not set" if name is None else repr(name)
        yield job.in_file(f"config.name is {value}, but the folder is `{job.name}`", "config", "name")
    name = job.process.get("name")
    if name is not None and name != job.name:
        yield job.in_config(f"the process is named {name!r}, but the folder is `{job.name}`", "name")


@AREA.error(
    "config-process",
    "ai-toolkit trains what config.process describes",
    "add one process of type sd_trainer",
    needed=True,
)
def missing_process(job: Subject) -> Iterator[Problem]:
    if job.config and not job.config.fault and not job.config.process:
        yield job.in_file("config.process[0] is missing", "config", "process")


AREA.setting(
    "error",
    "training-folder",
    "training_folder",
    lambda value: value != OUTPUT_FOLDER,
    f"only `{OUTPUT_FOLDER}` is synced to the bucket",
    f"set it to `{OUTPUT_FOLDER}`",
    needed=True,
)


@AREA.error(
    "folder-path",
    f"the images are in the job's folder `{DATASET_FOLDER}`; those of further datasets are in folders whose names begin with {START_WORDS}",
    f"set datasets: [{{folder_path: {DATASET_FOLDER}}}], and rename the folders of further datasets",
    needed=True,
)
def wrong_dataset_folders(job: Subject) -> Iterator[Problem]:
    if not job.trains or job.config is None:
        return
    datasets = job.config.process.get("datasets")
    if not isinstance(datasets, list) or not datasets:
        yield job.in_config("datasets[0] is missing", "datasets")
        return
    for number, entry in enumerate(datasets):
        known = entry if isinstance(entry, dict) else {}
        key = "folder_path" if known.get("dataset_path") is None else "dataset_path"
        if not folder_name(known.get(key)):
            message = describe_value(f"datasets[{number}].{key}", known.get(key))
            yield job.in_config(message, "datasets", str(number), key)
    used = folder_uses(job.process)
    if not any(use.is_trained and use.folder == DATASET_FOLDER for use in used):
        yield job.in_config(f"no dataset has the folder `{DATASET_FOLDER}`", "datasets")


def is_not_a_positive_number(value: object) -> bool:
    return positive_int(value) is None


AREA.setting(
    "error",
    "steps-invalid",
    "train.steps",
    is_not_a_positive_number,
    "the trainer stops at train.steps",
    "set it to a whole number above 0, such as 2000",
    needed=True,
)
AREA.setting(
    "error",
    "save-every-invalid",
    "save.save_every",
    is_not_a_positive_number,
    "an interrupted run continues from its last checkpoint",
    "set it to a whole number above 0, such as 250",
    needed=True,
)


@AREA.warning(
    "saves-kept",
    "a checkpoint that the trainer deletes is deleted from the bucket as well",
    "set save.max_step_saves_to_keep to at least the number of saves",
)
def checkpoints_that_the_trainer_deletes(job: Subject) -> Iterator[Problem]:
    if not job.config or not job.config.steps or not job.config.save_every:
        return
    kept = job.section("save").get("max_step_saves_to_keep", DEFAULT_SAVES_KEPT)
    # The last save is not counted: it is the finished LoRA, which is never deleted.
    saves = (job.config.steps - 1) // job.config.save_every
    if isinstance(kept, int) and 0 < kept < saves:
        yield job.in_config(
            f"keeps {kept} of the {saves} saves of this run", "save", "max_step_saves_to_keep"
        )


@AREA.error(
    "config-processes",
    "one job is one training: the launcher waits for one LoRA",
    "make a job folder for each process",
)
def more_than_one_process(job: Subject) -> Iterator[Problem]:
    if job.config and job.trains:
        processes = job.config.document["config"]["process"]
        if len(processes) > 1:
            yield job.in_file(f"config.process has {len(processes)} entries", "config", "process", "1")


@AREA.error(
    "job-type",
    "ai-toolkit runs this training only as an extension",
    "set job: extension",
)
def unknown_job_type(job: Subject) -> Iterator[Problem]:
    if job.config and job.trains and job.config.document.get("job") != "extension":
        yield job.in_file(describe_value("job", job.config.document.get("job")), "job")


@AREA.error(
    "config-meta",
    "ai-toolkit adds its own keys to this section when it saves, and stops if it is none",
    "delete it, or write keys below it",
)
def meta_that_is_no_section(job: Subject) -> Iterator[Problem]:
    if job.config and job.trains and not isinstance(job.config.document.get("meta", {}), dict):
        yield job.in_file(describe_value("meta", job.config.document["meta"]), "meta")


@AREA.error(
    "process-type",
    "ai-toolkit's other processes extract, merge or generate, or need the database of its own web page",
    f"set type: {TRAINERS[0]}",
)
def unknown_process_type(job: Subject) -> Iterator[Problem]:
    value = job.process.get("type")
    if job.trains and value not in TRAINERS:
        message = describe_value("the type of the process", value)
        yield job.in_config(f"{message}{nearest(str(value), TRAINERS)}", "type")


@AREA.error(
    "caption-ext",
    "captions reach the node as .txt; without them ai-toolkit trains with empty ones",
    "set caption_ext: txt, and delete caption_type",
)
def wrong_caption_extensions(job: Subject) -> Iterator[Problem]:
    for number, entry in enumerate(job.config.datasets if job.config else ()):
        value = entry.get("caption_ext", "txt")
        if value not in ("txt", ".txt"):
            yield job.in_config(describe_value("caption_ext", value), "datasets", str(number), "caption_ext")
        # `caption_type` is the older name of `caption_ext`. With it, ai-toolkit does not add the dot before
        # the suffix.
        older = entry.get("caption_type")
        if older and older != ".txt":
            yield job.in_config(f"caption_type is {older!r}", "datasets", str(number), "caption_type")


@AREA.error(
    "config-variable",
    "ai-toolkit replaces it by the node's environment variable, and stops if there is none",
    "set it under cluster.environment in the stack's configuration, or write the value here",
)
def variables_that_the_node_lacks(job: Subject) -> Iterator[Problem]:
    if not job.config:
        return
    text = job.config.raw.decode(errors="replace")
    for number, line in enumerate(text.splitlines(), 1):
        for name in VARIABLE.findall(line):
            if name not in job.variables:
                message = f"${{{name}}} is not an environment variable of the node"
                yield Problem(str(job.config.path), message, number)


AREA.setting(
    "error",
    "push-to-hub",
    "save.push_to_hub",
    bool,
    "the node has no Hugging Face login, and waits for one until the stall limit ends the run",
    "set push_to_hub: false; the LoRA is saved in the bucket",
)
AREA.setting(
    "error",
    "device",
    "device",
    lambda value: value not in ("cuda", "cuda:0"),
    "a node has one GPU",
    "set device: cuda:0",
    default="cuda:0",
)
