"""Asking a vision model for captions: OpenAI, or any server with its interface (Ollama, vLLM, LM Studio …)."""

from __future__ import annotations

import base64
import random
import threading
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, cast
from urllib.parse import urlsplit

import httpx
import tenacity
from pydantic import SecretStr

from flux_training.clients.http import LOOPBACK, Patience, RateLimiter, retry_after
from flux_training.training.dataset.captions import Answer, one_line
from flux_training.training.errors import BadInput, FluxError

if TYPE_CHECKING:
    import openai

KEY_VARIABLE = "OPENAI_API_KEY"
URL_VARIABLE = "OPENAI_BASE_URL"
OPENAI_URL = "https://api.openai.com/v1"
# Servers on one's own machine want no key; the SDK wants one all the same.
NO_KEY = "none"
TIMEOUT_SECONDS = 120.0
PATIENCE = Patience(attempts=6, first=1, longest=30, total=180)
# The account has no money left: waiting does not help.
OUT_OF_MONEY = "insufficient_quota"


class Stopped(Exception):  # noqa: N818 - it is no error
    """The user wants to stop, and this request was not sent (again)."""


class Refused(FluxError):  # noqa: N818 - named for what happened, like the rest of the tree
    """The service will answer no request of ours: a wrong key or model, no money left, not reachable."""


def host_of(base_url: str) -> str:
    """Host and port, for people: an address can hold a user and a password. Raises BadInput for what is no http(s) address."""
    try:
        address = urlsplit(base_url)
        host, port = address.hostname, address.port
        # The SDK is stricter than urlsplit, and would end in its own exception.
        httpx.URL(base_url)
    except (ValueError, httpx.InvalidURL):
        host, port = None, None
    if not host or address.scheme not in ("http", "https"):
        # Not shown: a wrong address can hold a password all the same.
        raise BadInput(
            [
                f"--base-url (or {URL_VARIABLE}) must begin with https:// or http:// and a host, such as {OPENAI_URL}"
            ]
        )
    host = f"[{host}]" if ":" in host else host
    return host if port is None else f"{host}:{port}"


def key_for(base_url: str, environ: Mapping[str, str]) -> SecretStr | None:
    """The key to send to this address, if any. Raises FluxError when OpenAI itself would get none, or it cannot be sent.

    A key is not sent unencrypted to another machine.
    """
    address = urlsplit(base_url)
    key = environ.get(KEY_VARIABLE, "").strip()
    if address.scheme == "http" and address.hostname not in LOOPBACK:
        return None
    if not key and address.hostname == urlsplit(OPENAI_URL).hostname:
        raise FluxError(
            f"{KEY_VARIABLE} is not set",
            "OpenAI wants a key",
            f"set it, or name another server with --base-url (or {URL_VARIABLE})",
        )
    if not all("!" <= character <= "~" for character in key):
        raise BadInput([f"{KEY_VARIABLE} holds a space or a character beyond ASCII; copy it again"])
    return SecretStr(key) if key else None


class Captioner:
    """One model at one address. Thread-safe; once `stop` is set, no request is sent any more."""

    def __init__(
        self,
        model: str,
        base_url: str,
        key: SecretStr | None,
        instruction: str,
        *,
        max_tokens: int,
        per_minute: int,
        stop: threading.Event,
        patience: Patience = PATIENCE,
    ) -> None:
        import openai  # half a second: only where it is used

        self.model, self.host = model, host_of(base_url)
        self._instruction, self._max_tokens = instruction, max_tokens
        self._key, self._stop, self._patience = key, stop, patience
        self._limiter = RateLimiter(per_minute, sleep=self._sleep)
        self._openai = openai
        self._client = openai.OpenAI(
            api_key=key.get_secret_value() if key else NO_KEY,
            base_url=base_url,
            timeout=TIMEOUT_SECONDS,
            max_retries=0,  # every attempt waits for its turn, and none begins after `stop`: see `ask`
            http_client=openai.DefaultHttpxClient(trust_env=urlsplit(base_url).hostname not in LOOPBACK),
        )

    def __repr__(self) -> str:
        return f"<Captioner {self.model} at {self.host}>"

    def close(self) -> None:
        self._client.close()

    def ask(self, picture: bytes) -> Answer:
        """What the model says of a JPEG. Raises Stopped, Refused, and FluxError when this image cannot be captioned."""
        error = self._openai
        retrying = tenacity.Retrying(
            retry=tenacity.retry_if_exception(self._is_transient),
            stop=tenacity.stop_after_attempt(self._patience.attempts)
            | tenacity.stop_before_delay(self._patience.total),
            wait=self._wait,
            sleep=self._sleep,
            reraise=True,
        )
        try:
            return retrying(self._once, picture)
        except (error.AuthenticationError, error.PermissionDeniedError, error.NotFoundError) as failure:
            raise self._refused(failure, f"check the key, --model {self.model} and --base-url") from failure
        except error.RateLimitError as failure:
            if failure.code == OUT_OF_MONEY:
                raise self._refused(failure, "the account has no money left") from failure
            raise self._failed("still too many requests", failure) from failure
        except error.APITimeoutError as failure:
            raise self._failed("no answer in time", failure) from failure
        except error.APIConnectionError as failure:
            raise self._refused(failure, "is it running, and is the address right?") from failure
        except error.APIError as failure:
            raise self._failed("answered with an error", failure) from failure
        except ValueError as failure:
            # The SDK lets JSON that ends too early through. Not tried again: each answer is paid for.
            raise FluxError(f"an answer that cannot be read ({type(failure).__name__})") from failure

    def _once(self, picture: bytes) -> Answer:
        self._limiter.wait()
        if self._stop.is_set():
            raise Stopped
        content: Any = [
            {"type": "text", "text": self._instruction},
            {
                "type": "image_url",
                "image_url": {"url": f"data:image/jpeg;base64,{base64.b64encode(picture).decode()}"},
            },
        ]
        answer = self._client.chat.completions.create(
            model=self.model,
            messages=[{"role": "user", "content": content}],
            max_completion_tokens=self._max_tokens,
        )
        return _read(answer)

    def _is_transient(self, failure: BaseException) -> bool:
        error = self._openai
        if isinstance(failure, error.APIStatusError):
            return failure.status_code in (408, 409, 429, *range(500, 600)) and failure.code != OUT_OF_MONEY
        return isinstance(failure, error.APIConnectionError)

    def _wait(self, state: tenacity.RetryCallState) -> float:
        """Seconds until the next attempt: exponential with jitter, but no sooner than the service asked."""
        ceiling = min(self._patience.longest, self._patience.first * 2**state.attempt_number)
        failure: Any = state.outcome.exception() if state.outcome else None
        asked = (
            retry_after(cast(Any, failure.response))
            if isinstance(failure, self._openai.APIStatusError)
            else 0.0
        )
        return max(asked, random.uniform(ceiling / 4, ceiling))  # noqa: S311 - jitter is no cryptography

    def _sleep(self, seconds: float) -> None:
        if self._stop.wait(seconds):
            raise Stopped

    def _refused(self, failure: openai.APIError, next_step: str) -> Refused:
        return Refused(f"{self.model} at {self.host}: {self._words(failure)}", "", next_step)

    def _failed(self, what: str, failure: openai.APIError) -> FluxError:
        return FluxError(f"{what} ({self._words(failure)})")

    def _words(self, failure: openai.APIError) -> str:
        """What the service said, never with the key: some repeat it."""
        body: Any = failure.body
        said = body.get("message") if isinstance(body, dict) else None
        words = one_line(str(said or failure.message))
        secret = self._key.get_secret_value() if self._key else ""
        return (words.replace(secret, "***") if secret else words)[:300]


def _read(completion: Any) -> Answer:
    """Lenient: other servers leave out, or set to null, what OpenAI always sends."""
    usage = getattr(completion, "usage", None)
    tokens = (getattr(usage, "prompt_tokens", 0) or 0, getattr(usage, "completion_tokens", 0) or 0)
    choices = getattr(completion, "choices", None)
    if not choices or getattr(choices[0], "message", None) is None:
        return Answer(None, tokens_in=tokens[0], tokens_out=tokens[1])
    message = choices[0].message
    text = message.content if isinstance(message.content, str) else None
    refusal = getattr(message, "refusal", None)
    return Answer(text, choices[0].finish_reason, refusal if isinstance(refusal, str) else None, *tokens)
