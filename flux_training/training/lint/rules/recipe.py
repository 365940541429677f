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
AREA.fault(
    "config-both",
    "a job folder must have only one of train.yml and train.yaml",
    "delete the file that you do not use",
)
AREA.fault("config-unreadable", "train.yml must be a short text file", "make train.yml a readable file")
AREA.fault("config-encoding", "ai-toolkit reads train.yml as UTF-8", "save train.yml as UTF-8")
AREA.fault("config-yaml", "ai-toolkit cannot read a train.yml that is not valid YAML", "correct that line")
AREA.fault(
    "config-value",
    "ai-toolkit converts train.yml to JSON and back, which fails for this value",
    "correct the value",
)
AREA.fault("config-keys", "ai-toolkit refuses a train.yml without these keys", "see jobs/ for an example")


@AREA.error(
    "config-name",
    "outputs are uploaded from output/<job folder>, so the name in train.yml must be that of the folder",
    "set the name to that of the job folder",
    needed=True,
)
def name_that_differs_from_the_folder(job: Subject) -> Iterator[Problem]:
    if job.config is None or job.config.fault:
        return
    name = job.config.document["config"].get("name")
    if name != job.name:
        value = f"`{name}`" if isinstance(name, str) else "not set" if name is None else repr(name)
        yield job.train_yml_problem(
            f"config.name is {value}, but the folder is `{job.name}`", "config", "name"
        )
    name = job.process.get("name")
    if name is not None and name != job.name:
        yield job.process_problem(f"the process is named {name!r}, but the folder is `{job.name}`", "name")


@AREA.error(
    "config-process",
    "`config.process` describes the training, so ai-toolkit has nothing to do without it",
    "add a process of type sd_trainer",
    needed=True,
)
def missing_process(job: Subject) -> Iterator[Problem]:
    if job.config and not job.config.fault and not job.config.process:
        yield job.train_yml_problem("config.process[0] is missing", "config", "process")


AREA.setting(
    "error",
    "training-folder",
    "training_folder",
    lambda value: value != OUTPUT_FOLDER,
    f"only the folder `{OUTPUT_FOLDER}` is uploaded to the bucket",
    f"set training_folder to `{OUTPUT_FOLDER}`",
    needed=True,
)


@AREA.error(
    "folder-path",
    f"the images of a job are in its folder `{DATASET_FOLDER}`; the names of further dataset folders begin with {START_WORDS}",
    f"set datasets: [{{folder_path: {DATASET_FOLDER}}}], and rename the folders of further datasets",
    needed=True,
)
def wrong_dataset_folders(job: Subject) -> Iterator[Problem]:
    if not job.trains or job.config is None:
        return
    datasets = job.config.process.get("datasets")
    if not isinstance(datasets, list) or not datasets:
        yield job.process_problem("datasets[0] is missing", "datasets")
        return
    for number, entry in enumerate(datasets):
        known = entry if isinstance(entry, dict) else {}
        key = "folder_path" if known.get("dataset_path") is None else "dataset_path"
        if not folder_name(known.get(key)):
            message = describe_value(f"datasets[{number}].{key}", known.get(key))
            yield job.process_problem(message, "datasets", str(number), key)
    used = folder_uses(job.process)
    if not any(use.is_trained and use.folder == DATASET_FOLDER for use in used):
        yield job.process_problem(f"no dataset has the folder `{DATASET_FOLDER}`", "datasets")


def is_not_a_positive_number(value: object) -> bool:
    return positive_int(value) is None


AREA.setting(
    "error",
    "steps-invalid",
    "train.steps",
    is_not_a_positive_number,
    "train.steps is the number of steps after which the training ends",
    "set train.steps to a whole number above 0, such as 2000",
    needed=True,
)
AREA.setting(
    "error",
    "save-every-invalid",
    "save.save_every",
    is_not_a_positive_number,
    "save.save_every is the number of steps between two checkpoints, from which an interrupted run continues",
    "set save.save_every to a whole number above 0, such as 250",
    needed=True,
)


@AREA.warning(
    "saves-kept",
    "a checkpoint that ai-toolkit deletes is also deleted from the bucket",
    "set save.max_step_saves_to_keep to at least the number of checkpoints",
)
def checkpoints_that_the_trainer_deletes(job: Subject) -> Iterator[Problem]:
    if not job.config or not job.config.steps or not job.config.save_every:
        return
    kept = job.section("save").get("max_step_saves_to_keep", DEFAULT_SAVES_KEPT)
    # The last save is not counted: it is the finished LoRA, which is never deleted.
    saves = (job.config.steps - 1) // job.config.save_every
    if isinstance(kept, int) and 0 < kept < saves:
        yield job.process_problem(
            f"keeps {kept} of the {saves} saves of this run", "save", "max_step_saves_to_keep"
        )


@AREA.error(
    "config-processes",
    "a job is a single training, because the launcher waits for a single LoRA",
    "make a separate job folder for each process",
)
def more_than_one_process(job: Subject) -> Iterator[Problem]:
    if job.config and job.trains:
        processes = job.config.document["config"]["process"]
        if len(processes) > 1:
            yield job.train_yml_problem(
                f"config.process has {len(processes)} entries", "config", "process", "1"
            )


@AREA.error(
    "job-type",
    "ai-toolkit runs this kind of training only with `job: extension`",
    "set job: extension",
)
def unknown_job_type(job: Subject) -> Iterator[Problem]:
    if job.config and job.trains and job.config.document.get("job") != "extension":
        yield job.train_yml_problem(describe_value("job", job.config.document.get("job")), "job")


@AREA.error(
    "config-meta",
    "ai-toolkit adds its own keys to the section `meta` when it saves, and stops if `meta` is not a section",
    "delete `meta`, or write keys below it",
)
def meta_that_is_no_section(job: Subject) -> Iterator[Problem]:
    if job.config and job.trains and not isinstance(job.config.document.get("meta", {}), dict):
        yield job.train_yml_problem(describe_value("meta", job.config.document["meta"]), "meta")


@AREA.error(
    "process-type",
    "ai-toolkit's other process types do not train, or need the database of its web page",
    f"set type: {TRAINERS[0]}",
)
def unknown_process_type(job: Subject) -> Iterator[Problem]:
    value = job.process.get("type")
    if job.trains and value not in TRAINERS:
        message = describe_value("the type of the process", value)
        yield job.process_problem(f"{message}{nearest(str(value), TRAINERS)}", "type")


@AREA.error(
    "caption-ext",
    "captions are uploaded as .txt files; with another suffix, ai-toolkit finds none and trains with empty captions",
    "set caption_ext: txt, and delete caption_type",
)
def wrong_caption_extensions(job: Subject) -> Iterator[Problem]:
    for number, entry in enumerate(job.config.datasets if job.config else ()):
        value = entry.get("caption_ext", "txt")
        if value not in ("txt", ".txt"):
            yield job.process_problem(
                describe_value("caption_ext", value), "datasets", str(number), "caption_ext"
            )
        # `caption_type` is the older name of `caption_ext`. With it, ai-toolkit does not add the
        # dot before the suffix.
        older = entry.get("caption_type")
        if older and older != ".txt":
            yield job.process_problem(f"caption_type is {older!r}", "datasets", str(number), "caption_type")


@AREA.error(
    "config-variable",
    "ai-toolkit replaces `${NAME}` with an environment variable of the node, and stops if it is not set",
    "set the variable under cluster.environment in the stack's configuration, or write the value in train.yml",
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
    "a node has no Hugging Face login and would wait for one until stallMinutes ends the run",
    "set push_to_hub: false; the LoRA is saved in the bucket",
)
AREA.setting(
    "error",
    "device",
    "device",
    lambda value: value not in ("cuda", "cuda:0"),
    "a node has only one GPU",
    "set device: cuda:0",
    default="cuda:0",
)
