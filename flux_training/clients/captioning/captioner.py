"""Captions from a vision model: OpenAI, or any server with its interface (Ollama, vLLM, LM Studio …)."""

from __future__ import annotations

import base64
import ssl
import threading
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import httpx
import tenacity
from pydantic import SecretStr

from flux_training.clients.captioning.requests import (
    PLAINEST,
    InvalidCompletion,
    RequestForm,
    adapt_request_form,
    connection_advice,
    read_answer,
    refusal_message,
    refuses_token_limit_value,
    still_refuses_removed_token_limit,
    suggest_base_url,
)
from flux_training.clients.errors import MIN_SECRET_LENGTH
from flux_training.clients.http import LOOPBACK, RateLimiter, RetryPolicy, retry_after
from flux_training.clients.proxies import checked_proxies
from flux_training.training.dataset.captions import ModelResponse, stricter
from flux_training.training.dataset.model_answers import one_line
from flux_training.training.errors import BadInput, FluxError
from flux_training.training.runs.run_state import show_duration

if TYPE_CHECKING:
    import openai

    from flux_training.clients.captioning.bounded import BoundedClient

KEY_VARIABLE = "OPENAI_API_KEY"
URL_VARIABLE = "OPENAI_BASE_URL"
SET_KEY = f"`read -rs {KEY_VARIABLE} && export {KEY_VARIABLE}`"
OPENAI_URL = "https://api.openai.com/v1"
# The OpenAI SDK requires a key, but local servers do not, so they get this one.
NO_KEY = "none"
TIMEOUT_SECONDS = 120.0
RETRY_POLICY = RetryPolicy(attempts=6, first=1, longest=30, total=180)
# The number of attempts until a server has answered for the first time. A wrong model or address fails in the same way each
# time.
FIRST_ATTEMPTS = 3
# Requests with these statuses are retried: the server is reachable, but busy or still loading the model.
BUSY = (408, 429, 503)
# The error code for an account without credit. Retrying is pointless.
OUT_OF_CREDIT = "insufficient_quota"
# The HTTP status for a request body that is too large.
TOO_LARGE = 413
MAX_REFUSAL_LENGTH = 10_000
SMALLER = "reduce --max-side or --max-tokens, or configure a longer context for the model"
SMALLER_IMAGES = "send smaller images, for example with --max-side 512, or raise the limit of the server or of the proxy in front of it"
OTHER_LIMIT = "set another number of tokens with --max-tokens"
NOT_SENT = "the request was also tried without this parameter or with its other name; check the settings of the server, or of the gateway in front of it"


class CaptioningStopped(Exception):  # noqa: N818 - it is not an error
    """The user has stopped the program, so this request was not sent."""


class CaptioningRefused(FluxError):  # noqa: N818 - named like the other errors
    """No request can succeed: the key or model is wrong, there is no credit, or the service is not reachable."""


class ApiKeyMissing(FluxError):  # noqa: N818 - named like the other errors
    """OpenAI needs a key, and none is set."""


def host_and_port(base_url: str) -> str:
    """Host and port of an address, without user and password. Raises BadInput if it is not http or https."""
    try:
        address = urlsplit(base_url)
        host, port = address.hostname, address.port
        # The OpenAI SDK is stricter than urlsplit, and would raise its own exception for an invalid address.
        httpx.URL(base_url)
    except (ValueError, httpx.InvalidURL):
        host, port = None, None
    if not host or address.scheme not in ("http", "https"):
        # Do not show the address: it may contain a password.
        raise BadInput(
            [
                f"--base-url (or {URL_VARIABLE}) must begin with https:// or http:// and a host, such as {OPENAI_URL}"
            ]
        )
    if address.query or address.fragment:
        raise BadInput(
            [
                f"--base-url (or {URL_VARIABLE}) contains a query (?…) or fragment (#…); give the address without it, such as {OPENAI_URL}"
            ]
        )
    host = f"[{host}]" if ":" in host else host
    return host if port is None else f"{host}:{port}"


def api_key_for(base_url: str, environ: Mapping[str, str]) -> SecretStr | None:
    """The key to send to this address, if any; never unencrypted to another machine.

    Raises ApiKeyMissing if OpenAI would get no key, and BadInput if no header can hold it.
    """
    address = urlsplit(base_url)
    key = environ.get(KEY_VARIABLE, "").strip()
    if address.scheme == "http" and address.hostname not in LOOPBACK:
        return None
    if not key and address.hostname == urlsplit(OPENAI_URL).hostname:
        raise ApiKeyMissing(
            f"{KEY_VARIABLE} is not set",
            "OpenAI needs a key",
            f"{SET_KEY} sets it; or name another server with --base-url (or {URL_VARIABLE}), or write the captions yourself with --review",
        )
    if not all("!" <= character <= "~" for character in key):
        raise BadInput([f"{KEY_VARIABLE} contains a space or a non-ASCII character; copy the key again"])
    return SecretStr(key) if key else None


def _http_client(base_url: str) -> BoundedClient:
    """A client with the user's proxy, if the address is not on this machine. Raises BadInput for a proxy that cannot be used."""
    # This module is imported here because it imports the OpenAI package's HTTP library, which takes time.
    from flux_training.clients.captioning.bounded import BoundedClient

    is_local = urlsplit(base_url).hostname in LOOPBACK
    with checked_proxies(is_local):
        if not is_local:
            return BoundedClient()
        # The client ignores the proxy variables of the environment, but honours SSL_CERT_FILE.
        return BoundedClient(trust_env=False, verify=ssl.create_default_context())


class Captioner:
    """One model at one address. Thread-safe. Sends no request after `stop` is set."""

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
        retry_policy: RetryPolicy = RETRY_POLICY,
    ) -> None:
        import openai  # The package openai is imported here because importing it takes half a second.

        self.model, self.host = model, host_and_port(base_url)
        self._instruction, self._max_tokens, self._base_url = instruction, max_tokens, base_url
        # The form of requests changes for the rest of the run once the server refuses or ignores a parameter.
        self._form = RequestForm()
        self._has_answered = self._was_plain = False
        self._key, self._stop, self._retry_policy = key, stop, retry_policy
        self._limiter = RateLimiter(per_minute, sleep=self._sleep)
        self._openai = openai
        self._client = openai.OpenAI(
            api_key=key.get_secret_value() if key else NO_KEY,
            base_url=base_url,
            timeout=TIMEOUT_SECONDS,
            max_retries=0,  # The method `ask` retries instead, within the rate limit and not after `stop`.
            http_client=_http_client(base_url),
        )

    def __repr__(self) -> str:
        return f"<Captioner {self.model} at {self.host}>"

    def close(self) -> None:
        self._client.close()

    def ask(self, picture: bytes, strict: bool = False) -> ModelResponse:
        """The model's answer for a JPEG. Raises Stopped, Refused, and FluxError if this image cannot be captioned.

        `strict`: ask for the caption alone, after an answer that was none. Raises NotACompletion if no model has answered.
        """
        error = self._openai
        retrying = self._retry_policy.retrying(self._is_worth_retrying, self._wait, self._sleep)
        try:
            return retrying(self._ask_in_accepted_form, picture, strict)
        except (error.AuthenticationError, error.PermissionDeniedError, error.NotFoundError) as failure:
            steps = (f"check the key, --model {self.model} and --base-url", suggest_base_url(self._base_url))
            raise self._refused(failure, "; or ".join(filter(None, steps))) from failure
        except error.RateLimitError as failure:
            if failure.code == OUT_OF_CREDIT:
                raise self._refused(
                    failure, "the account has no credit left; add credit at the service"
                ) from failure
            if (seconds := retry_after(failure.response)) > self._retry_policy.total:
                step = f"run the command again in {show_duration(seconds)}"
                raise self._refused(failure, step) from failure
            raise self._failed_error("still too many requests", failure) from failure
        except error.APITimeoutError as failure:
            raise self._failed_error("no answer in time", failure) from failure
        except error.APIConnectionError as failure:
            step = connection_advice(self._words(failure), self._base_url)
            raise self._refused(failure, step) from failure
        except error.InternalServerError as failure:
            kind = FluxError if self._has_answered else InvalidCompletion
            raise kind(f"the server failed ({self._words(failure)})", "its log says why") from failure
        except error.APIError as failure:
            raise FluxError(
                f"answered with an error ({self._words(failure)})", "", self._hint(failure)
            ) from failure

    def _hint(self, failure: openai.APIError) -> str:
        words = self._words(failure)
        if isinstance(failure, self._openai.APIStatusError) and failure.status_code == TOO_LARGE:
            return SMALLER_IMAGES
        if "context" in words:
            return SMALLER
        if refuses_token_limit_value(words):
            return OTHER_LIMIT
        return NOT_SENT if still_refuses_removed_token_limit(self._form, words) else ""

    def _ask_in_accepted_form(self, picture: bytes, strict: bool) -> ModelResponse:
        """Ask the model, without the parameters that the server has refused by name so far."""
        while True:
            form = self._form
            try:
                return self._once(picture, strict, form)
            # Some servers answer 200 or 500 when they refuse a parameter.
            except (self._openai.APIStatusError, InvalidCompletion) as failure:
                changed = adapt_request_form(form, self._full_error_message(failure))
                if changed is None:
                    if self._may_refuse_a_parameter(failure) and (
                        answer := self._ask_without_options(picture, strict)
                    ):
                        return answer
                    raise
                # Another thread may have changed the form of requests in the meantime.
                if self._form == form:
                    self._form = changed

    def _may_refuse_a_parameter(self, failure: openai.APIStatusError | InvalidCompletion) -> bool:
        """Whether the first request failed with an unknown message, so that a parameter may be the cause."""
        return (
            isinstance(failure, self._openai.APIStatusError)
            and failure.status_code in (400, 422)
            and not (self._has_answered or self._was_plain or self._hint(failure))
        )

    def _ask_without_options(self, picture: bytes, strict: bool) -> ModelResponse | None:
        """The answer to a request without optional parameters, which is tried once; None if that is refused as well."""
        self._was_plain = True
        try:
            answer = self._once(picture, strict, PLAINEST)
        except (self._openai.APIStatusError, InvalidCompletion):
            return None
        self._form = PLAINEST
        return answer

    def _once(self, picture: bytes, strict: bool, form: RequestForm) -> ModelResponse:
        self._limiter.wait()
        if self._stop.is_set():
            raise CaptioningStopped
        content: Any = [
            {"type": "text", "text": stricter(self._instruction) if strict else self._instruction},
            {
                "type": "image_url",
                "image_url": {"url": f"data:image/jpeg;base64,{base64.b64encode(picture).decode()}"},
            },
        ]
        # Parse the answer here instead of in the SDK: other servers' answers do not always have OpenAI's form.
        answer = self._client.chat.completions.with_raw_response.create(
            model=self.model,
            messages=[{"role": "user", "content": content}],
            **form.parameters(self._max_tokens),
        ).http_response
        response = read_answer(answer.content, answer.headers.get("content-type", ""), self._base_url)
        self._has_answered = True
        if response.tokens_out > self._max_tokens and self._form == form:
            self._form = form.with_other_limit_name()
        return response

    def _is_worth_retrying(self, state: tenacity.RetryCallState) -> bool:
        failure = state.outcome.exception() if state.outcome else None
        if failure is None or not self._is_transient(failure):
            return False
        is_busy = getattr(failure, "status_code", None) in BUSY
        return self._has_answered or is_busy or state.attempt_number < FIRST_ATTEMPTS

    def _is_transient(self, failure: BaseException) -> bool:
        error = self._openai
        if isinstance(failure, error.APIStatusError):
            return failure.status_code in (408, 409, 429, *range(500, 600)) and failure.code != OUT_OF_CREDIT
        return isinstance(failure, error.APIConnectionError)

    def _wait(self, state: tenacity.RetryCallState) -> float:
        failure: Any = state.outcome.exception() if state.outcome else None
        has_answer = isinstance(failure, self._openai.APIStatusError)
        return self._retry_policy.wait(
            state.attempt_number, retry_after(failure.response) if has_answer else 0
        )

    def _sleep(self, seconds: float) -> None:
        if self._stop.wait(seconds):
            raise CaptioningStopped

    def _refused(self, failure: openai.APIError, next_step: str) -> CaptioningRefused:
        return CaptioningRefused(f"{self.model} at {self.host}: {self._words(failure)}", "", next_step)

    def _failed_error(self, what: str, failure: openai.APIError) -> FluxError:
        return FluxError(f"{what} ({self._words(failure)})")

    def _full_error_message(self, failure: openai.APIStatusError | InvalidCompletion) -> str:
        """The service's message together with all related fields."""
        if isinstance(failure, InvalidCompletion):
            return failure.what
        return failure.response.text[:MAX_REFUSAL_LENGTH]

    def _words(self, failure: openai.APIError) -> str:
        """The service's message without the API key, which some services repeat."""
        body: Any = failure.body
        said = body.get("message") if isinstance(body, dict) else None
        if not said and isinstance(failure, self._openai.APIStatusError):
            answer = failure.response
            said = refusal_message(answer.status_code, answer.headers, answer.text)
        if isinstance(failure, self._openai.APIConnectionError) and (cause := failure.__cause__):
            said = f"{failure.message.rstrip('.')} ({str(cause) or type(cause).__name__})"
        words = one_line(str(said or failure.message))
        secret = self._key.get_secret_value() if self._key else ""
        return (words.replace(secret, "***") if len(secret) >= MIN_SECRET_LENGTH else words)[:300]
