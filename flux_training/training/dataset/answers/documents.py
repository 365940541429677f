"""JSON that models write around a caption, as asked for or not. Pure."""

import ast
import json
from typing import Any

from flux_training.training.dataset.answers import patterns

CAPTION_KEYS = (
    # Of several languages, English.
    *("english", "en", "english_caption", "caption_en"),
    "caption",
    "short_caption",
    "image_caption",
    "description",
    "answer",
    "text",
    "response",
    "content",
    "result",
    "output",
)
# Keys under which servers put an error message.
ERROR_KEYS = ("error", "errors", "message", "detail", "reason", "status")


def from_json(text: str) -> str:
    """The caption in a JSON document, perhaps in a fenced block; the text itself if it has none."""
    fenced = patterns.FENCE.search(text)
    inner = fenced[1].strip() if fenced else patterns.OPEN_FENCE.sub("", patterns.BEFORE_JSON.sub("", text))
    if fenced and patterns.TEXT_FENCE.match(text):
        return inner
    if inner.startswith('"{') and isinstance(document := parsed(inner), str):
        inner = document
    if inner[:1] in ("{", "["):
        document = parsed(inner) or _first_document(inner)
        loose = patterns.LOOSE_CAPTION.search(inner) if document is None else None
        found = parsed(f'"{loose[1]}"') or loose[1] if loose else _caption_in(document)
        return found if found is not None else text
    return inner if fenced and not text.replace(fenced[0], "").strip() else text


def has_whole_caption(text: str) -> bool:
    """Whether a text is JSON whose caption is complete, although the tokens ran out behind it.

    Some servers fill an answer with white space up to the limit, and some models with further keys.
    """
    inner = patterns.OPEN_FENCE.sub("", text.strip())
    try:
        document, end = json.JSONDecoder().raw_decode(inner)
    except (ValueError, RecursionError):
        return patterns.WHOLE_CAPTION.match(inner) is not None
    return _caption_in(document) is not None and not inner[end:].strip("` \n")


def parsed(text: str) -> Any:
    """JSON, or what Python writes for such values; None if it is neither."""
    for parse in (json.loads, ast.literal_eval):
        try:
            return parse(text)
        except (ValueError, SyntaxError, RecursionError, MemoryError):
            continue
    return None


def _first_document(text: str) -> Any:
    """The JSON document that a text begins with; None if it begins with none."""
    try:
        return json.JSONDecoder().raw_decode(text)[0]
    except (ValueError, RecursionError):
        return None


def _caption_in(document: Any) -> str | None:
    if isinstance(document, str):
        return document
    if isinstance(document, list):
        return _caption_in(document[0]) if len(document) == 1 else None
    if not isinstance(document, dict):
        return None
    texts = {str(key).casefold(): value for key, value in document.items() if isinstance(value, str)}
    named = next((texts[key] for key in CAPTION_KEYS if key in texts), None)
    if named is None and isinstance(nested := document.get("caption"), dict):
        named = _caption_in(nested)
    if named is not None or len(document) != 1:
        return named
    [(key, only)] = document.items()
    is_error = isinstance(only, str) and str(key).casefold() in ERROR_KEYS
    return None if is_error else _caption_in(only)
