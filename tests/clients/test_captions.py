"""Asking a server with OpenAI's interface: what is tried again, what ends everything, and that the key stays unseen."""

import io
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from PIL import Image
from pydantic import SecretStr

from flux_training.clients.captioning.captioner import (
    OPENAI_URL,
    Captioner,
    Refused,
    Stopped,
    host_of,
    key_for,
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


@contextmanager
def asking(*answers: str, stop: threading.Event | None = None) -> Iterator[tuple[Captioner, CaptionServer]]:
    """A client whose n-th request is answered as the n-th word says, the last word for all after it."""
    with captioner(lambda _number, attempt: answers[min(attempt, len(answers)) - 1]) as server:
        client = Captioner(
            "gpt-4.1-nano",
            server.url,
            SecretStr(KEY),
            "describe it",
            max_tokens=77,
            per_minute=1000,
            stop=stop or threading.Event(),
            retry_policy=RetryPolicy(attempts=4, first=0.01, longest=0.02, total=20),
        )
        try:
            yield client, server
        finally:
            client.close()


@pytest.mark.parametrize("fault", ["500", "503", "429", "hang up"])
def test_a_temporary_failure_is_retried(fault: str) -> None:
    with asking(fault, fault, "ok") as (client, server):
        assert client.ask(picture()) == ModelResponse("A square, number 1.", "stop", None, 100, 10)
        assert server.asked[1] == 3


@pytest.mark.parametrize("fault", ["500", "429"])
def test_a_lasting_failure_fails_only_this_image(fault: str) -> None:
    with asking(fault) as (client, server):
        with pytest.raises(FluxError) as caught:
            client.ask(picture())
        assert not isinstance(caught.value, Refused)
        assert server.asked[1] == 4


def test_a_bad_request_is_not_retried() -> None:
    with asking("400") as (client, server):
        with pytest.raises(FluxError, match="answered with an error"):
            client.ask(picture())
        assert server.asked[1] == 1


@pytest.mark.parametrize("fault", ["401", "404", "quota"])
def test_a_wrong_key_model_or_account_stops_all_images(fault: str) -> None:
    with asking(fault) as (client, server):
        with pytest.raises(Refused):
            client.ask(picture())
        assert server.asked[1] == 1


def test_an_unreachable_server_stops_all_images() -> None:
    with asking("hang up") as (client, _), pytest.raises(Refused, match="is it running"):
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
        with pytest.raises(Stopped):
            client.ask(picture())
        assert not server.asked


def test_a_stop_ends_the_wait_for_a_retry() -> None:
    stop = threading.Event()
    with asking("500", stop=stop) as (client, server):
        client._retry_policy = RetryPolicy(attempts=9, first=600, longest=600, total=6000)
        threading.Timer(0.3, stop.set).start()
        with pytest.raises(Stopped):
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
    key = key_for(url, environ)
    assert (key is not None) is sent
    assert key is None or key.get_secret_value() == KEY


def test_openai_without_a_key_is_refused() -> None:
    with pytest.raises(FluxError, match="OPENAI_API_KEY is not set"):
        key_for(OPENAI_URL, {})


def test_a_truncated_answer_is_not_retried() -> None:
    with asking("half") as (client, server):
        with pytest.raises(FluxError, match="the answer cannot be read as JSON") as caught:
            client.ask(picture())
        assert not isinstance(caught.value, Refused)
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
    assert host_of(url) == host


@pytest.mark.parametrize(
    "url", ["http://[bad", "localhost:11434/v1", "", "https://", "http://h:password@", "http://a:b:c/"]
)
def test_an_invalid_address_is_refused_and_not_shown(url: str) -> None:
    with pytest.raises(BadInput, match="must begin with https://") as caught:
        host_of(url)
    assert "password" not in str(caught.value)


@pytest.mark.parametrize("key", ["“sk-secret”", "sk-secret\u00a0x", "sk-secret two"])
def test_a_key_with_invalid_characters_is_refused_and_not_shown(key: str) -> None:
    with pytest.raises(BadInput, match="beyond ASCII") as caught:
        key_for(OPENAI_URL, {"OPENAI_API_KEY": key})
    assert "secret" not in str(caught.value)
