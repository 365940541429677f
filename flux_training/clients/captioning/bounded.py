"""An HTTP client that limits the size of answers and the time until they are complete, whatever the server does."""

import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

import httpx2

from flux_training.clients.captioning.requests import InvalidCompletion

MAX_ANSWER_BYTES = 4 * 1024 * 1024
# The maximum time from the request to the last byte of the answer. The HTTP library's own time-outs apply to each read, and a
# server that sends single bytes slowly never exceeds them.
ANSWER_SECONDS = 180.0
SEE_LOG = "see the log of the server, or of the gateway in front of it"


class BoundedClient(httpx2.Client):
    """Follows no redirect: a key belongs to one address. Raises NotACompletion."""

    def send(self, request: httpx2.Request, *, stream: bool = False, **options: Any) -> httpx2.Response:  # noqa: ARG002 - the signature of httpx2
        """The response with its whole content, also if the caller asks for a stream."""
        return _within_time_limit(lambda: self._complete(request, **options))

    def _complete(self, request: httpx2.Request, **options: Any) -> httpx2.Response:
        response = super().send(request, stream=True, **options)
        try:
            content = _read(response)
        finally:
            response.close()
        # These headers describe the body before it was decompressed, so they are removed.
        sent = ("content-encoding", "content-length", "transfer-encoding")
        headers = [(name, value) for name, value in response.headers.multi_items() if name not in sent]
        return httpx2.Response(response.status_code, headers=headers, content=content, request=request)


def _within_time_limit(send: Callable[[], httpx2.Response]) -> httpx2.Response:
    """The result of `send`, within the time limit.

    `send` runs in its own thread, because nothing else ends the reading of headers that arrive byte by byte.
    """
    answer: Future[httpx2.Response] = Future()

    def run() -> None:
        try:
            answer.set_result(send())
        except BaseException as failure:  # noqa: BLE001 - the caller raises it
            answer.set_exception(failure)

    threading.Thread(target=run, daemon=True).start()
    try:
        return answer.result(ANSWER_SECONDS)
    except TimeoutError:
        what = f"the answer was not complete after {ANSWER_SECONDS:g} seconds"
        raise InvalidCompletion(what, "", SEE_LOG) from None


def _read(response: httpx2.Response) -> bytes:
    """The decompressed content."""
    content = bytearray()
    try:
        for piece in response.iter_bytes():
            content += piece
            if len(content) > MAX_ANSWER_BYTES:
                raise InvalidCompletion(
                    f"the answer has more than {MAX_ANSWER_BYTES:,} bytes, which is too much for a caption",
                    "",
                    SEE_LOG,
                )
    except httpx2.DecodingError as failure:
        raise InvalidCompletion(f"the answer cannot be decompressed ({failure})", "", SEE_LOG) from failure
    return bytes(content)
