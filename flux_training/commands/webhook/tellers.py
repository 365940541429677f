"""The ways to tell a person: a Slack-compatible address, a command of theirs."""

from __future__ import annotations

import os
import shlex
import subprocess
from collections.abc import Mapping

import httpx
import tenacity

from flux_training.clients.captions import KEY_VARIABLE
from flux_training.clients.connection import SECRET_SETTINGS, VARIABLES
from flux_training.clients.http import LOOPBACK
from flux_training.commands.stack.engine import ACCESS_TOKEN, PASSPHRASE_VARIABLES
from flux_training.commands.webhook.notice import Notice, slack_body
from flux_training.training.errors import BadInput, FluxError

TRIES = 4
POST_SECONDS, COMMAND_SECONDS = 10.0, 60.0
NOTIFY_URL_VARIABLE = "FLUX_NOTIFY_URL"


def check_address(url: str) -> None:
    """Raises BadInput, without the address: it is as good as a password."""
    try:
        parsed = httpx.URL(url)
        good = parsed.scheme in ("http", "https") and bool(parsed.host)
    except httpx.InvalidURL:
        good = False
    if not good:
        raise BadInput(
            [f"--notify-url or {NOTIFY_URL_VARIABLE} is no http:// or https:// address; correct it"]
        )


def tell_slack(url: str, notice: Notice) -> None:
    """Post it, again when the other side fails for the moment. Raises FluxError; the address, which is a secret, stands in no text."""

    @tenacity.retry(
        retry=tenacity.retry_if_exception_type(httpx.HTTPError),
        stop=tenacity.stop_after_attempt(TRIES),
        wait=tenacity.wait_exponential_jitter(multiplier=0.5, max=8),
        reraise=True,
    )
    def post() -> httpx.Response:
        local = httpx.URL(url).host in LOOPBACK
        answer = httpx.post(url, json=slack_body(notice), timeout=POST_SECONDS, trust_env=not local)
        if answer.status_code == 429 or answer.status_code >= 500:
            raise httpx.HTTPError(f"status {answer.status_code}")
        return answer

    try:
        answer = post()
    except httpx.HTTPError as failure:
        raise FluxError(
            f"the notify address cannot be told: {type(failure).__name__}", "", "see to it"
        ) from None
    if not answer.is_success:
        raise FluxError(f"the notify address answered {answer.status_code}", "", "check the address")


def tell_command(words: list[str], notice: Notice) -> None:
    """Run it, without a shell, with the facts in its environment and none of our keys. Raises FluxError."""
    try:
        done = subprocess.run(  # noqa: S603 - the user's own command
            words,
            env={**clean_environment(os.environ), **notice.variables()},
            stdin=subprocess.DEVNULL,
            timeout=COMMAND_SECONDS,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as failure:
        reason = failure.strerror if isinstance(failure, OSError) else f"no end after {COMMAND_SECONDS:.0f} s"
        raise FluxError(f"`{words[0]}` did not work: {reason}", "", "mend the command") from None
    if done.returncode != 0:
        raise FluxError(f"`{words[0]}` ended with {done.returncode}", "", "mend the command")


def command_words(command: str) -> list[str]:
    """The command as a shell would split it; nothing of it is expanded. Raises BadInput."""
    try:
        words = shlex.split(command)
    except ValueError as error:
        raise BadInput([f"--command {command}: {error}; close the quote"]) from None
    if not words:
        raise BadInput(["--command is empty; give a program and its arguments"])
    return words


def clean_environment(environ: Mapping[str, str]) -> dict[str, str]:
    """Without what opens something."""
    secrets = {variable for variable, setting in VARIABLES.items() if setting in SECRET_SETTINGS}
    secrets |= {*PASSPHRASE_VARIABLES, ACCESS_TOKEN, KEY_VARIABLE, NOTIFY_URL_VARIABLE}
    secrets |= {"AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"}
    return {name: value for name, value in environ.items() if name not in secrets}
