"""Asking a server with OpenAI's interface: what is tried again, what ends everything, and that the key stays unseen."""

import io
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import certifi
import pytest
from PIL import Image
from pydantic import SecretStr

from flux_training.clients.captioning import bounded
from flux_training.clients.captioning.captioner import (
    OPENAI_URL,
    Captioner,
    CaptioningRefused,
    CaptioningStopped,
    _http_client,
    api_key_for,
    host_and_port,
)
from flux_training.clients.captioning.requests import (
    LIMIT_NAMES,
    InvalidCompletion,
    RequestForm,
    adapt_request_form,
    connection_advice,
    read_answer,
    suggest_base_url,
)
from flux_training.clients.http import RetryPolicy
from flux_training.training.dataset.captions import ModelResponse
from flux_training.training.errors import BadInput, FluxError
from tests.support.openai_server import FIRST_WIDTH, CaptionServer, captioner

KEY = "sk-a-key-that-nobody-may-see"


def picture(number: int = 1) -> bytes:
    out = io.BytesIO()
    Image.new("RGB", (FIRST_WIDTH + number, 64)).save(out, "JPEG")
    return out.getvalue()


def captioner_for(url: str, key: SecretStr, stop: threading.Event | None = None) -> Captioner:
    return Captioner(
        "gpt-4.1-nano",
        url,
        key,
        "describe it",
        max_tokens=77,
        per_minute=1000,
        stop=stop or threading.Event(),
        retry_policy=RetryPolicy(attempts=4, first=0.01, longest=0.02, total=20),
    )


@contextmanager
def asking(*answers: str, stop: threading.Event | None = None) -> Iterator[tuple[Captioner, CaptionServer]]:
    """A client whose n-th request is answered as the n-th word says, the last word for all after it."""
    with captioner(lambda _number, attempt: answers[min(attempt, len(answers)) - 1]) as server:
        client = captioner_for(server.url, SecretStr(KEY), stop)
        try:
            yield client, server
        finally:
            client.close()


@pytest.mark.parametrize("fault", ["500", "503", "429", "hang up"])
def test_a_temporary_failure_is_retried(fault: str) -> None:
    with asking(fault, fault, "ok") as (client, server):
        assert client.ask(picture()) == ModelResponse("A square, number 1.", "stop", None, 100, 10)
        assert server.asked[1] == 3


@pytest.mark.parametrize("fault", ["500", "503", "429"])
def test_a_lasting_failure_fails_only_this_image(fault: str) -> None:
    with asking("ok", fault) as (client, server):
        client.ask(picture())
        with pytest.raises(FluxError) as caught:
            client.ask(picture())
        assert not isinstance(caught.value, (CaptioningRefused, InvalidCompletion))
        assert server.asked[1] == 1 + 4


@pytest.mark.parametrize(("fault", "attempts"), [("500", 3), ("503", 4), ("429", 4), ("hang up", 3)])
def test_a_server_that_has_never_answered_gets_fewer_attempts_unless_it_is_busy(
    fault: str, attempts: int
) -> None:
    with asking(fault) as (client, server):
        with pytest.raises(FluxError) as caught:
            client.ask(picture())
        assert isinstance(caught.value, InvalidCompletion) == fault.startswith("50")
        assert server.asked[1] == attempts


def test_a_limit_of_tokens_that_a_server_ignores_is_sent_under_its_older_name() -> None:
    with asking("long") as (client, server):
        client.ask(picture())
        client.ask(picture())
    assert [sorted(body.keys() & set(LIMIT_NAMES)) for body in server.bodies] == [
        ["max_completion_tokens"],
        ["max_tokens"],
    ]


def test_a_bad_request_is_tried_once_more_in_the_plainest_form() -> None:
    with asking("400") as (client, server):
        with pytest.raises(FluxError, match="answered with an error"):
            client.ask(picture())
        assert [sorted(body) for body in server.bodies] == [
            ["max_completion_tokens", "model", "response_format"],
            ["model"],
        ]
        with pytest.raises(FluxError, match="answered with an error"):
            client.ask(picture())
        assert server.asked[1] == 3


@pytest.mark.parametrize("fault", ["401", "404", "quota"])
def test_a_wrong_key_model_or_account_stops_all_images(fault: str) -> None:
    with asking(fault) as (client, server):
        with pytest.raises(CaptioningRefused):
            client.ask(picture())
        assert server.asked[1] == 1


def test_an_unreachable_server_stops_all_images() -> None:
    with asking("hang up") as (client, _), pytest.raises(CaptioningRefused, match="is it running"):
        client.ask(picture())


@pytest.mark.parametrize("fault", ["400", "401", "500", "quota", "429"])
def test_errors_never_show_the_key_even_if_the_server_repeats_it(fault: str) -> None:
    with asking(fault) as (client, server):
        with pytest.raises(FluxError) as caught:
            client.ask(picture())
        assert KEY not in str(caught.value)
        assert KEY not in repr(client)
        assert server.keys == {f"Bearer {KEY}"}


@pytest.mark.parametrize(
    ("how", "answer"),
    [
        ("refuse", ModelResponse(None, "stop", "I cannot describe this person.", 100, 10)),
        ("cut", ModelResponse("A square that", "length", None, 100, 10)),
        ("filter", ModelResponse("", "content_filter", None, 100, 10)),
        ("poor", ModelResponse('"A square,\nnumber one."', None, None, 0, 0)),
    ],
)
def test_answers_with_missing_fields_are_read(how: str, answer: ModelResponse) -> None:
    with asking(how) as (client, server):
        assert client.ask(picture()) == answer
        [body] = server.bodies
        assert body.pop("response_format")["type"] == "json_schema"
        assert body == {"model": "gpt-4.1-nano", "max_completion_tokens": 77}


def test_nothing_is_sent_after_the_stop() -> None:
    stop = threading.Event()
    stop.set()
    with asking("ok", stop=stop) as (client, server):
        with pytest.raises(CaptioningStopped):
            client.ask(picture())
        assert not server.asked


def test_a_stop_ends_the_wait_for_a_retry() -> None:
    stop = threading.Event()
    with asking("500", stop=stop) as (client, server):
        client._retry_policy = RetryPolicy(attempts=9, first=600, longest=600, total=6000)
        threading.Timer(0.3, stop.set).start()
        with pytest.raises(CaptioningStopped):
            client.ask(picture())
        assert server.asked[1] == 1


@pytest.mark.parametrize(
    ("url", "environ", "sent"),
    [
        (OPENAI_URL, {"OPENAI_API_KEY": KEY}, True),
        ("https://example.org/v1", {"OPENAI_API_KEY": KEY}, True),
        ("http://127.0.0.1:11434/v1", {"OPENAI_API_KEY": KEY}, True),
        ("http://192.168.1.7:11434/v1", {"OPENAI_API_KEY": KEY}, False),
        ("http://127.0.0.1:11434/v1", {}, False),
    ],
)
def test_the_key_is_not_sent_unencrypted_to_another_machine(
    url: str, environ: dict[str, str], sent: bool
) -> None:
    key = api_key_for(url, environ)
    assert (key is not None) is sent
    assert key is None or key.get_secret_value() == KEY


def test_openai_without_a_key_is_refused() -> None:
    with pytest.raises(
        FluxError, match=r"OPENAI_API_KEY is not set.*`read -rs OPENAI_API_KEY && export OPENAI_API_KEY`"
    ):
        api_key_for(OPENAI_URL, {})


def test_a_truncated_answer_is_not_retried() -> None:
    with asking("half") as (client, server):
        with pytest.raises(FluxError, match="the answer cannot be read as JSON") as caught:
            client.ask(picture())
        assert not isinstance(caught.value, CaptioningRefused)
        assert server.asked[1] == 1


@pytest.mark.parametrize(
    ("url", "host"),
    [
        (OPENAI_URL, "api.openai.com"),
        ("https://me:password@models.example:8443/v1", "models.example:8443"),
        ("http://[::1]:11434/v1", "[::1]:11434"),
    ],
)
def test_only_host_and_port_of_an_address_are_shown(url: str, host: str) -> None:
    assert host_and_port(url) == host


@pytest.mark.parametrize(
    "url", ["http://[bad", "localhost:11434/v1", "", "https://", "http://h:password@", "http://a:b:c/"]
)
def test_an_invalid_address_is_refused_and_not_shown(url: str) -> None:
    with pytest.raises(BadInput, match="must begin with https://") as caught:
        host_and_port(url)
    assert "password" not in str(caught.value)


@pytest.mark.parametrize(
    "url",
    [
        "https://x.example/v1?api-version=2&key=hidden",
        "http://127.0.0.1/v1#hidden",
        "https://x.example?hidden",
    ],
)
def test_an_address_with_a_query_is_refused_and_not_shown(url: str) -> None:
    with pytest.raises(BadInput, match="give the address without it") as caught:
        host_and_port(url)
    assert "hidden" not in str(caught.value)


@pytest.mark.parametrize(
    ("words", "step"),
    [
        (
            "[SSL: WRONG_VERSION_NUMBER] wrong version number",
            "the server does not use https; try --base-url http://models.example:8000/v1",
        ),
        (
            "[SSL: CERTIFICATE_VERIFY_FAILED] certificate verify failed: self-signed certificate",
            "set SSL_CERT_FILE to the file with the server's certificate or that of its authority",
        ),
        ("[Errno 111] Connection refused", "is it running, and is the address right?"),
    ],
)
def test_a_failed_connection_names_what_to_try(words: str, step: str) -> None:
    assert connection_advice(words, "https://me:hidden@models.example:8000/v1") == step


@pytest.mark.parametrize("key", ["“sk-secret”", "sk-secret\u00a0x", "sk-secret two"])
def test_a_key_with_invalid_characters_is_refused_and_not_shown(key: str) -> None:
    with pytest.raises(BadInput, match="non-ASCII character") as caught:
        api_key_for(OPENAI_URL, {"OPENAI_API_KEY": key})
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    ("refusal", "keys"),
    [
        ("no max_completion_tokens", {"model", "max_tokens"}),
        ("no limit", {"model"}),
        ("no structure", {"model", "max_completion_tokens"}),
        ("no structure, no limit", {"model"}),
    ],
)
def test_refused_parameters_are_left_out_from_then_on(refusal: str, keys: set[str]) -> None:
    with asking(refusal) as (client, server):
        assert client.ask(picture()).text == "A square, number 1."
        before = len(server.bodies)
        assert client.ask(picture()).text == "A square, number 1."
    assert len(server.bodies) == before + 1
    assert server.bodies[-1].keys() - {"response_format"} == keys
    assert ("response_format" in server.bodies[-1]) == ("no structure" not in refusal)


@pytest.mark.parametrize(
    ("refusal", "limit", "structured"),
    [
        # Mistral (editor-code-assistant/eca#231)
        (
            '{"type":"extra_forbidden","loc":["body","max_completion_tokens"],"msg":"Extra inputs are not permitted"}',
            "max_tokens",
            True,
        ),
        (
            "Unsupported parameter: 'max_completion_tokens' is not supported with this model. Use 'max_tokens' instead.",
            "max_tokens",
            True,
        ),
        ("response_format.type must be one of text, json_object", "max_completion_tokens", False),
        ("This model does not support guided decoding", "max_completion_tokens", False),
        ("'max_completion_tokens' is not a valid parameter", "max_tokens", True),
        ("Parameter `max_completion_tokens` cannot be used; use `max_tokens`", "max_tokens", True),
        ("Field max_completion_tokens: not found in schema", "max_completion_tokens", False),
        ("max_completion_tokens must not be set", "max_tokens", True),
        ("response schema not implemented", "max_completion_tokens", False),
        ("'type' must be one of: text, json_object", "max_completion_tokens", False),
        # lmstudio-ai/lmstudio-bug-tracker#307, ggml-org/llama.cpp#11847
        ("'response_format.type' must be 'json_schema'", "max_completion_tokens", False),
        ('Either "json_schema" or "grammar" can be specified, but not both', "max_completion_tokens", False),
    ],
)
def test_the_form_follows_what_a_server_refuses_by_name(refusal: str, limit: str, structured: bool) -> None:
    assert adapt_request_form(RequestForm(), refusal) == RequestForm(limit, structured)


@pytest.mark.parametrize(
    "refusal",
    [
        "This model's maximum context length is 2048 tokens",
        "max_completion_tokens is too large: 300",
        "max_completion_tokens must be less than or equal to 256",
        "max_completion_tokens must be between 1 and 256",
        "the image is too large",
        "",
    ],
)
def test_other_refusals_change_nothing(refusal: str) -> None:
    assert adapt_request_form(RequestForm(structured=False), refusal) is None


@pytest.mark.parametrize(
    ("body", "kind", "said"),
    [
        (
            b'{"error":"Unexpected endpoint or method. (POST /chat/completions)."}',
            "application/json",
            "Unexpected endpoint",
        ),
        (b"<!doctype html><title>LM Studio</title>", "text/html", "a web page titled \u201cLM Studio\u201d"),
        (b"<html><body>Sign in", "text/plain", "a web page"),
        (b'data: {"choices": []}\n\ndata: [DONE]\n\n', "text/event-stream", "an event stream"),
        (b"[1, 2]", "application/json", "no chat completion"),
        (b'{"detail": "Not Found"}', "application/json", "error: Not Found"),
        (
            b'{"errors": [{"code": 7003, "message": "Could not route"}]}',
            "application/json",
            "error: Could not route",
        ),
        (
            b'{"detail": [{"loc": ["model"], "msg": "field required"}]}',
            "application/json",
            "error: model: field required",
        ),
        (b'{"error": {"error": {"message": "no such model"}}}', "application/json", "error: no such model"),
        (
            b'{"choices": [{"error": {"message": "Provider returned error"}}]}',
            "application/json",
            "Provider returned",
        ),
        (b'{"output": "A cat."}', "application/json", "has no field `choices`"),
        (b"", "application/json", "the answer is empty"),
        (b"A cat.", "text/plain", "cannot be read as JSON: A cat."),
    ],
)
def test_what_is_no_answer_of_a_model_is_described_with_what_to_try(
    body: bytes, kind: str, said: str
) -> None:
    with pytest.raises(InvalidCompletion) as caught:
        read_answer(body, kind, "http://127.0.0.1:1234")
    assert said in str(caught.value)
    if "stream" not in said:
        assert "try --base-url http://127.0.0.1:1234/v1" in str(caught.value)


@pytest.mark.parametrize(
    "content",
    [
        [{"type": "text", "text": "A cat."}],
        ["A cat."],
        [{"type": "thinking", "thinking": []}, {"type": "text", "text": "A cat."}],
        [{"text": "A "}, {"type": "output_text", "text": "cat."}],
        {"type": "text", "text": "A cat."},
        [{"type": "text", "text": {"value": "A cat."}}],
    ],
)
def test_content_in_parts_is_joined(content: object) -> None:
    body = json.dumps({"choices": [{"message": {"content": content}}]}).encode()
    assert read_answer(body, "text/plain", "http://127.0.0.1/v1").text == "A cat."


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-32"])
@pytest.mark.parametrize("form", ["message", "delta"])
def test_answers_in_other_encodings_and_parts_of_a_stream_are_read(encoding: str, form: str) -> None:
    body = json.dumps({"choices": [{form: {"content": "A cat."}}]}).encode(encoding)
    assert read_answer(body, "application/json", "http://127.0.0.1/v1").text == "A cat."


@pytest.mark.parametrize("name", ["error", "text"])
def test_deeply_nested_answers_are_no_captions(name: str) -> None:
    nested = f'{{"{name}": ' * 900 + '"A cat."' + "}" * 900
    answer = f'{{"choices": [{{"message": {{"content": {nested}}}}}]}}' if name == "text" else nested
    with suppress(InvalidCompletion):
        assert read_answer(answer.encode(), "application/json", "http://127.0.0.1/v1").text is None


@pytest.mark.parametrize(
    ("url", "step"),
    [
        ("http://127.0.0.1:1234", "try --base-url http://127.0.0.1:1234/v1"),
        ("https://me:secret@models.example/llm/", "try --base-url https://models.example/llm/v1"),
        ("http://127.0.0.1:1234/v1/", ""),
        ("https://models.example/v1beta/openai/", ""),
        ("http://127.0.0.1:1234/v1/chat/completions", "try --base-url http://127.0.0.1:1234/v1"),
        ("http://127.0.0.1:1234/v1/models/", "try --base-url http://127.0.0.1:1234/v1"),
        ("https://models.example/responses", "try --base-url https://models.example/v1"),
        ("https://models.example/api/v3/completions", "try --base-url https://models.example/api/v3"),
    ],
)
def test_an_address_without_a_version_gets_a_suggestion(url: str, step: str) -> None:
    assert suggest_base_url(url) == step


def test_a_limit_that_ends_in_hours_stops_all_images() -> None:
    with asking("429 for hours") as (client, server):
        with pytest.raises(CaptioningRefused, match="run the command again in 7 h"):
            client.ask(picture())
        assert server.asked[1] == 1


def test_a_context_that_is_too_short_is_explained() -> None:
    with asking("context") as (client, _), pytest.raises(FluxError, match="reduce --max-side"):
        client.ask(picture())


def test_a_parameter_that_is_refused_although_it_is_not_sent_is_explained() -> None:
    with asking("refuse always") as (client, server):
        with pytest.raises(FluxError, match="also tried without this parameter or with its other name"):
            client.ask(picture())
        assert [sorted(body) for body in server.bodies] == [
            ["max_completion_tokens", "model", "response_format"],
            ["max_tokens", "model", "response_format"],
        ]


@pytest.mark.parametrize("how", ["drip", "drip headers"])
def test_a_server_that_drips_bytes_is_not_waited_for(how: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bounded, "ANSWER_SECONDS", 0.1)
    with asking(how) as (client, server), pytest.raises(InvalidCompletion, match="was not complete after"):
        client.ask(picture())
    assert server.asked[1] == 1


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ("bomb", "more than 4,194,304 bytes"),
        ("answer 200|Content-Encoding|gzip|no gzip", "cannot be decompressed (Error -3"),
    ],
)
def test_an_answer_that_cannot_be_read_is_not_asked_for_again(how: str, said: str) -> None:
    with asking(how) as (client, server), pytest.raises(InvalidCompletion) as caught:
        client.ask(picture())
    assert said in str(caught.value)
    assert server.asked[1] == 1


@pytest.mark.parametrize(
    "refusal",
    [
        "400: unknown field(s) in request",
        "422: Unrecognized request argument supplied: maxCompletionTokens",
        "501: response_format is not implemented; max_completion_tokens and max_tokens are not known",
        "200: response_format is not supported, nor max_completion_tokens or max_tokens",
    ],
)
def test_parameters_refused_by_value_or_with_any_status_are_left_out(refusal: str) -> None:
    with asking(f"plain only {refusal}") as (client, server):
        assert client.ask(picture()).text == "A square, number 1."
        before = len(server.bodies)
        assert client.ask(picture()).text == "A square, number 1."
    assert len(server.bodies) == before + 1


@pytest.mark.parametrize(
    ("how", "said"),
    [
        (
            'answer 422|X|y|{"detail": [{"loc": ["body", "messages"], "msg": "str type expected"}]}',
            "body.messages: str type expected (status 422)",
        ),
        (
            "answer 403|Content-Type|text/html|<html><title>Attention Required!</title>",
            "titled “Attention Required!” (status 403)",
        ),
        (
            "answer 413|Content-Type|text/html|<html><title>413 Request Entity Too Large</title>",
            "(status 413)); send smaller images, for example with --max-side 512",
        ),
        ("answer 405|X|y|Method Not Allowed", "Method Not Allowed (status 405)"),
        ("answer 405|X|y|", "status 405, without a message"),
        (
            "answer 308|Location|https://login.example/sso?token=x|",
            "redirects to https://login.example/sso (status 308)",
        ),
        ("answer 301|Location|http://127.0.0.1:1/v1|", "redirects to http://127.0.0.1:1/v1"),
        ("hang up", "disconnected without sending a response"),
    ],
)
def test_a_refusal_is_shown_in_the_servers_words(how: str, said: str) -> None:
    with asking(how) as (client, _), pytest.raises(FluxError) as caught:
        client.ask(picture())
    assert said in str(caught.value)
    assert "Error code" not in str(caught.value)
    assert "token=" not in str(caught.value)


@pytest.mark.parametrize("address", ["https://127.0.0.1:9/v1", "https://models.example/v1"])
def test_the_users_certificates_are_used_on_this_machine_too(
    address: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    bundle = Path(certifi.where()).read_text(encoding="utf-8")
    one = bundle[bundle.index("-----BEGIN") : bundle.index("-----END")] + "-----END CERTIFICATE-----\n"
    (tmp_path / "one.pem").write_text(one, encoding="utf-8")
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "one.pem"))
    with _http_client(address) as client:
        context = client._transport._pool._ssl_context  # type: ignore[attr-defined]  # httpx's own
    assert len(context.get_ca_certs()) == 1
