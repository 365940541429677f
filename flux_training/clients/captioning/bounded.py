"""An HTTP client whose answers have a largest size and must be complete in time, whatever the server does."""

import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

import httpx2

from flux_training.clients.captioning.requests import NotACompletion

MAX_ANSWER_BYTES = 4 * 1024 * 1024
# From the request to the last byte. The library's own time-outs apply to each read, so a server that sends a byte now and then never exceeds them.
ANSWER_SECONDS = 180.0
SEE_LOG = "see the log of the server, or of a gateway before it"


class BoundedClient(httpx2.Client):
    """Follows no redirect: a key belongs to one address. Raises NotACompletion."""

    def send(self, request: httpx2.Request, *, stream: bool = False, **options: Any) -> httpx2.Response:  # noqa: ARG002 - the signature of httpx2
        """The response with its whole content, also if the caller asks for a stream."""
        return _in_time(lambda: self._complete(request, **options))

    def _complete(self, request: httpx2.Request, **options: Any) -> httpx2.Response:
        response = super().send(request, stream=True, **options)
        try:
            content = _read(response)
        finally:
            response.close()
        # These headers describe the content as it was sent, before it was decompressed.
        sent = ("content-encoding", "content-length", "transfer-encoding")
        headers = [(name, value) for name, value in response.headers.multi_items() if name not in sent]
        return httpx2.Response(response.status_code, headers=headers, content=content, request=request)


def _in_time(send: Callable[[], httpx2.Response]) -> httpx2.Response:
    """The result of `send`, which runs in a thread of its own: nothing else ends the reading of headers that arrive one by one."""
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
        raise NotACompletion(what, "", SEE_LOG) from None


def _read(response: httpx2.Response) -> bytes:
    """The decompressed content."""
    content = bytearray()
    try:
        for piece in response.iter_bytes():
            content += piece
            if len(content) > MAX_ANSWER_BYTES:
                raise NotACompletion(
                    f"the answer has more than {MAX_ANSWER_BYTES:,} bytes, which is too much for a caption",
                    "",
                    SEE_LOG,
                )
    except httpx2.DecodingError as failure:
        raise NotACompletion(f"the answer cannot be decompressed ({failure})", "", SEE_LOG) from failure
    return bytes(content)
