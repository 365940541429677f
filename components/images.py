"""Custom images, one for each model: docker/ is built and pushed when its content changes, and the container groups use them by their digests.

Needs the plugin pulumi-command, so the Pulumi CLI, and Docker with buildx. The build reads the Hugging Face token from the environment
(HF_TOKEN) as a build secret: it gets neither into the state nor into a layer.
"""

import hashlib
import re
from pathlib import Path

import pulumi

from flux_training.training.errors import FluxError
from flux_training.training.settings import ImageSettings

FOLDER = "docker"
SCRIPT = f"{FOLDER}/build.sh"


class TrainerImages(pulumi.ComponentResource):
    """`worker` is the image for the nodes, `dev` the one with the tunnel: `repository@sha256:…`."""

    worker: pulumi.Output[str]
    dev: pulumi.Output[str] | None

    def __init__(
        self,
        name: str,
        settings: ImageSettings,
        model: str,
        with_dev: bool,
        root: Path = Path(),
        opts: pulumi.ResourceOptions | None = None,
    ) -> None:
        super().__init__("flux:index:TrainerImages", name, None, opts)
        from pulumi_command import local

        command = local.Command(
            name,
            create=f"./{SCRIPT}",
            environment=build_environment(settings, model, with_dev),
            triggers=[folder_digest(root / FOLDER)],
            # By default the build would get the output of the previous build as environment variables.
            add_previous_output_in_env=False,
            logging=local.Logging.STDERR,
            opts=pulumi.ResourceOptions(parent=self),
        )
        self.worker = command.stdout.apply(lambda text: parse_built_image(text, "worker"))
        self.dev = command.stdout.apply(lambda text: parse_built_image(text, "dev")) if with_dev else None
        self.register_outputs({})


def images_resource_name(settings: ImageSettings, model: str) -> str:
    """The Pulumi name of the resource that builds the images with a model.

    The model of `image.model` has the name that stacks used before they could have several models.
    """
    return f"images{tag_suffix(settings, model)}"


def tag_suffix(settings: ImageSettings, model: str) -> str:
    """The suffix of the tags of the images with a model, such as `-Qwen--Qwen-Image`; empty for the model of `image.model`."""
    return "" if model == settings.model else f"-{model.replace('/', '--')}"


def build_environment(settings: ImageSettings, model: str, with_dev: bool) -> dict[str, str]:
    """The variables of docker/build.sh; it inherits HF_TOKEN."""
    suffix = tag_suffix(settings, model)
    # A MODEL_REVISION in the user's shell names a commit of `image.model`, so images with other models are built from `main`.
    return {
        **({"TAG_SUFFIX": suffix, "MODEL_REVISION": "main"} if suffix else {}),
        "REPOSITORY": settings.repository or "",
        "MODEL_ID": model,
        "KELPIE_SHA256": settings.kelpie_sha256 or "",
        "VSCODE_VERSION": settings.vscode_version,
        "VSCODE_SHA256": settings.vscode_sha256 or "",
        "TARGETS": "worker dev" if with_dev else "worker",
    }


def folder_digest(folder: Path) -> str:
    """SHA-256 over file names, executable bits and contents, independent of file order and times."""
    digest = hashlib.sha256()
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        name = path.relative_to(folder).as_posix().encode()
        executable = bytes([path.stat().st_mode & 0o100 != 0])
        for part in (name, executable, path.read_bytes()):
            digest.update(len(part).to_bytes(8, "big") + part)
    return digest.hexdigest()


def parse_built_image(output: str, target: str) -> str:
    """The reference of one image, from the output of docker/build.sh (lines such as `worker=repository@sha256:…`).

    Raises FluxError.
    """
    found = re.search(rf"^{target}=(\S+@sha256:[0-9a-f]{{64}})$", output, re.MULTILINE)
    if found is None:
        raise FluxError(
            f"{SCRIPT} ended without printing the digest of image {target}", "", "run it by hand to see why"
        )
    return found[1]
