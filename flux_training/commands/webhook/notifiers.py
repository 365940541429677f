"""Sends a notice: to a Slack-compatible address, or to a command of the user's."""

import html
import os
import shlex
import subprocess
from collections.abc import Mapping

import httpx
import tenacity

from flux_training.clients.captioning.captioner import KEY_VARIABLE
from flux_training.clients.connection import SECRET_SETTINGS, VARIABLES
from flux_training.clients.http import LOOPBACK
from flux_training.commands.stack.engine import ACCESS_TOKEN, PASSPHRASE_VARIABLES
from flux_training.commands.webhook.notice import Notice
from flux_training.training.errors import BadInput, FluxError

MAX_ATTEMPTS = 4
POST_SECONDS, COMMAND_SECONDS = 10.0, 60.0
NOTIFY_URL_VARIABLE = "FLUX_NOTIFY_URL"


def check_notify_address(url: str) -> None:
    """Raises BadInput without the address, which is a secret."""
    try:
        parsed = httpx.URL(url)
        is_valid = parsed.scheme in ("http", "https") and bool(parsed.host)
    except httpx.InvalidURL:
        is_valid = False
    if not is_valid:
        raise BadInput(
            [f"--notify-url or {NOTIFY_URL_VARIABLE} is not an http:// or https:// address; correct it"]
        )


def notify_slack(url: str, notice: Notice) -> None:
    """Retries temporary failures. Raises FluxError without the address, which is a secret."""
    try:
        answer = _post(url, notice)
    except httpx.HTTPError as failure:
        what = f"the notify address cannot be reached: {type(failure).__name__}"
        raise FluxError(what, "", "check the address and the network") from None
    if not answer.is_success:
        raise FluxError(f"the notify address answered {answer.status_code}", "", "check the address")


@tenacity.retry(
    retry=tenacity.retry_if_exception_type(httpx.HTTPError),
    stop=tenacity.stop_after_attempt(MAX_ATTEMPTS),
    wait=tenacity.wait_exponential_jitter(multiplier=0.5, max=8),
    reraise=True,
)
def _post(url: str, notice: Notice) -> httpx.Response:
    is_local = httpx.URL(url).host in LOOPBACK
    # Send the text without markup: these three characters are special for Slack and compatible services.
    text = html.escape(notice.text(), quote=False)
    answer = httpx.post(url, json={"text": text}, timeout=POST_SECONDS, trust_env=not is_local)
    if answer.status_code == 429 or answer.status_code >= 500:
        raise httpx.HTTPError(f"status {answer.status_code}")
    return answer


def run_command(words: list[str], notice: Notice) -> None:
    """Run the command without a shell. Its environment has the notice and none of our keys. Raises FluxError."""
    environment = {**without_secrets(os.environ), **notice.variables()}
    try:
        done = subprocess.run(  # noqa: S603 - the user's own command
            words, env=environment, stdin=subprocess.DEVNULL, timeout=COMMAND_SECONDS, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as failure:
        reason = (
            failure.strerror
            if isinstance(failure, OSError)
            else f"it did not end within {COMMAND_SECONDS:.0f} s"
        )
        raise FluxError(f"`{words[0]}` failed: {reason}", "", "fix the command") from None
    if done.returncode != 0:
        raise FluxError(f"`{words[0]}` failed with exit code {done.returncode}", "", "fix the command")


def split_command(command: str) -> list[str]:
    """Split the command like a shell, without expanding anything. Raises BadInput."""
    try:
        words = shlex.split(command)
    except ValueError as error:
        raise BadInput([f"--command {command}: {error}; close the quote"]) from None
    if not words:
        raise BadInput(["--command is empty; give a program and its arguments"])
    return words


def without_secrets(environ: Mapping[str, str]) -> dict[str, str]:
    secrets = {variable for variable, setting in VARIABLES.items() if setting in SECRET_SETTINGS}
    secrets |= {*PASSPHRASE_VARIABLES, ACCESS_TOKEN, KEY_VARIABLE, NOTIFY_URL_VARIABLE}
    secrets |= {"AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"}
    return {name: value for name, value in environ.items() if name not in secrets}
