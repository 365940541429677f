"""How requests to captioning servers are built, since servers accept different parameters, and how their answers are read.

Pure.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any
from urllib.parse import urlsplit

from flux_training.training.dataset.captions import ModelResponse
from flux_training.training.errors import FluxError
from flux_training.training.words import one_line

# JSON documents nested deeper than this are not accepted as answers.
MAX_LEVELS = 5
API_PATH = "/v1"
# The endpoint paths that users often copy along with the base URL from an example request.
OPERATION = re.compile(r"/(?:(?:chat/)?completions|responses|models|embeddings|messages)$")
# OpenAI's current name for the token limit, and the older name that most other servers know.
LIMIT_NAMES = ("max_completion_tokens", "max_tokens")
# A server whose message matches this knows the parameter and refuses its value.
VALUE = re.compile(
    r"too (?:large|big|high|long|small|low)|at most|at least|(?:less|greater|smaller|larger) than|between|maximum|minimum|exceed|out of range|<=|>=",
    re.IGNORECASE,
)
STRUCTURE = re.compile(
    r"response_format|schema|structured|guided|grammar|json mode|json_object", re.IGNORECASE
)
TITLE = re.compile(r"<title[^>]*>(.{0,200}?)</title>", re.IGNORECASE | re.DOTALL)
CAPTION_SCHEMA = {
    "type": "json_schema",
    "json_schema": {
        "name": "caption",
        "strict": True,
        "schema": {
            "type": "object",
            "properties": {"caption": {"type": "string"}},
            "required": ["caption"],
            "additionalProperties": False,
        },
    },
}


class InvalidCompletion(FluxError):  # noqa: N818 - named like the other errors
    """What came back is no answer of a model: the address or the server's settings may be wrong."""


@dataclass(frozen=True)
class RequestForm:
    """`limit`: the name of the parameter for most tokens, or None to send none. `structured`: ask for JSON with one caption."""

    limit: str | None = LIMIT_NAMES[0]
    structured: bool = True

    def parameters(self, max_tokens: int) -> dict[str, Any]:
        found: dict[str, Any] = {self.limit: max_tokens} if self.limit else {}
        return found | ({"response_format": CAPTION_SCHEMA} if self.structured else {})

    def with_other_limit_name(self) -> "RequestForm":
        """The form to use after an answer with more tokens than were allowed, because some servers ignore the current name of
        the limit.
        """
        return replace(self, limit=LIMIT_NAMES[-1]) if self.limit else self


def adapt_request_form(form: RequestForm, refusal: str) -> RequestForm | None:
    """The form to try after a server refused a request with these words; None if they name nothing in it that can change."""
    if form.structured and STRUCTURE.search(refusal):
        return replace(form, structured=False)
    if form.limit and _names(refusal, form.limit) and not VALUE.search(refusal):
        known = LIMIT_NAMES.index(form.limit) + 1
        return replace(form, limit=LIMIT_NAMES[known] if known < len(LIMIT_NAMES) else None)
    return None


# After this, the request has only parameters that every server must know.
PLAINEST = RequestForm(limit=None, structured=False)


def still_refuses_removed_token_limit(form: RequestForm, refusal: str) -> bool:
    """Whether a server still refuses a limit of tokens that the request no longer has under this name."""
    absent = [name for name in LIMIT_NAMES if name != form.limit]
    return not VALUE.search(refusal) and any(_names(refusal, name) for name in absent)


def refuses_token_limit_value(refusal: str) -> bool:
    """Whether a server complains that the token limit is too large or too small."""
    return VALUE.search(refusal) is not None and any(_names(refusal, name) for name in LIMIT_NAMES)


def _names(refusal: str, parameter: str) -> bool:
    return re.search(rf"(?<!\w){parameter}(?!\w)", refusal) is not None


def refusal_message(status: int, headers: Mapping[str, str], text: str) -> str:
    """What a server says with an error status: its message, the title of a page, or where it redirects to; may be empty."""
    if 300 <= status < 400:
        # Drop the query of the redirect address: it may contain a token.
        target = headers.get("location", "").partition("?")[0]
        return f"the server redirects to {target or 'no address'} (status {status})"
    try:
        said = _find_error_message(json.loads(text))
    except (ValueError, RecursionError):
        said = ""
        if title := TITLE.search(text):
            said = f"a web page titled “{one_line(title[1])}”"
        elif not text.lstrip().startswith("<"):
            said = text
    return f"{_start(str(said))} (status {status})" if said else f"status {status}, without a message"


def read_answer(raw: bytes, content_type: str, base_url: str) -> ModelResponse:
    """The answer in a response's body. Servers omit, or set to null, what OpenAI always sends. Raises NotACompletion."""
    text = raw.decode("utf-8", "replace").strip()
    try:
        # Given bytes, json.loads recognises UTF-16 and byte order marks.
        document = json.loads(raw)
    except (ValueError, RecursionError):
        raise _not_json_error(text, content_type, base_url) from None
    if not isinstance(document, dict):
        raise InvalidCompletion(
            f"the answer is JSON, but no chat completion: {_start(text)}", "", _hint(base_url)
        )
    choices = document.get("choices")
    if not isinstance(choices, list):
        raise _missing_choices_error(document, text, base_url)
    first = choices[0] if choices and isinstance(choices[0], dict) else {}
    if first.get("error"):
        raise _missing_choices_error(first, text, base_url)
    return _model_response(first, document.get("usage"))


def suggest_base_url(base_url: str) -> str:
    """What to try if a server does not know the address; empty if the address looks right."""
    given = urlsplit(base_url).path.rstrip("/")
    path = OPERATION.sub("", given)
    if not (re.search(r"/v\d+\w*(/|$)", path) or path.endswith("/openai")):
        path += API_PATH
    if path == given:
        return ""
    host = urlsplit(base_url).netloc.rpartition("@")[2]
    return f"try --base-url {urlsplit(base_url).scheme}://{host}{path}"


def connection_advice(words: str, base_url: str) -> str:
    """What to try if there was no connection, for these words of the TLS library or of the system."""
    if "CERTIFICATE_VERIFY_FAILED" in words:
        return "set SSL_CERT_FILE to the file with the server's certificate or that of its authority"
    if "WRONG_VERSION_NUMBER" in words:
        host = urlsplit(base_url).netloc.rpartition("@")[2]
        return f"the server does not use https; try --base-url http://{host}{urlsplit(base_url).path}"
    return "is it running, and is the address right?"


def _model_response(choice: dict[str, Any], usage: Any) -> ModelResponse:
    counts = usage if isinstance(usage, dict) else {}
    # Some servers answer like a stream that has only one part. In the older completions form, the choice itself has the text.
    found = choice.get("message") or choice.get("delta")
    message = found if isinstance(found, dict) else {"content": choice.get("text")}
    refusal, finish = message.get("refusal"), choice.get("finish_reason")
    reasoning = message.get("reasoning_content") or message.get("reasoning") or message.get("thinking")
    return ModelResponse(
        _message_text(message.get("content")),
        finish if isinstance(finish, str) else None,
        refusal if isinstance(refusal, str) else None,
        _count(counts.get("prompt_tokens")),
        _count(counts.get("completion_tokens")),
        reasoning if isinstance(reasoning, str) else "",
    )


def _message_text(content: Any, levels: int = MAX_LEVELS) -> str | None:
    """The text of a message. It may consist of parts: texts, or mappings with a type and a text."""
    if isinstance(content, dict):
        is_text = content.get("type") in (None, "text", "output_text")
        return (
            _message_text(content.get("text") or content.get("value"), levels - 1)
            if is_text and levels
            else None
        )
    if isinstance(content, list):
        return "".join(_message_text(part, levels - 1) or "" for part in content) if levels else None
    return content if isinstance(content, str) else None


def _count(value: Any) -> int:
    return value if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 10**9 else 0


def _missing_choices_error(document: dict[str, Any], text: str, base_url: str) -> InvalidCompletion:
    said = _find_error_message(document)
    what = (
        f"the server answered with an error: {_start(str(said))}"
        if said
        else f"the answer has no field `choices`: {_start(text)}"
    )
    return InvalidCompletion(what, "", _hint(base_url))


def _find_error_message(document: Any, levels: int = MAX_LEVELS) -> Any:
    """The error that a JSON document contains, in any of the forms that servers use; empty if it contains none."""
    if isinstance(document, list):
        document = document[0] if document else ""
    if not isinstance(document, dict) or not levels:
        return document
    if isinstance(document.get("loc"), list) and document.get("msg"):
        return f"{'.'.join(map(str, document['loc']))}: {document['msg']}"
    names = ("error", "errors", "detail", "message", "msg")
    return next((_find_error_message(document[name], levels - 1) for name in names if document.get(name)), "")


def _not_json_error(text: str, content_type: str, base_url: str) -> InvalidCompletion:
    if "event-stream" in content_type or text.startswith(("data:", "event:")):
        what = "the answer is an event stream, although none was asked for"
        return InvalidCompletion(
            what, "", "turn streaming off in the server, or in the gateway in front of it"
        )
    title = TITLE.search(text)
    if title or "html" in content_type or text[:200].lstrip().casefold().startswith(("<!doctype", "<html")):
        named = f" titled “{one_line(title[1])}”" if title else ""
        return InvalidCompletion(
            f"the answer is a web page{named}, not a model's answer", "", _hint(base_url)
        )
    if not text:
        return InvalidCompletion("the answer is empty", "", _hint(base_url))
    return InvalidCompletion(f"the answer cannot be read as JSON: {_start(text)}", "", _hint(base_url))


def _hint(base_url: str) -> str:
    return suggest_base_url(base_url) or "check --base-url and which program answers there"


def _start(text: str) -> str:
    return one_line(text, 120)
