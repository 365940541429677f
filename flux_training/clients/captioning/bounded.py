"""An HTTP client whose answers have a largest size and must be complete in time, whatever the server does."""

import time
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
        end = time.monotonic() + ANSWER_SECONDS
        response = super().send(request, stream=True, **options)
        try:
            content = _read(response, end)
        finally:
            response.close()
        # These headers describe the content as it was sent, before it was decompressed.
        sent = ("content-encoding", "content-length", "transfer-encoding")
        headers = [(name, value) for name, value in response.headers.multi_items() if name not in sent]
        return httpx2.Response(response.status_code, headers=headers, content=content, request=request)


def _read(response: httpx2.Response, end: float) -> bytes:
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
            if time.monotonic() > end:
                raise NotACompletion(
                    f"the answer was not complete after {ANSWER_SECONDS:g} seconds", "", SEE_LOG
                )
    except httpx2.DecodingError as failure:
        raise NotACompletion(f"the answer cannot be decompressed ({failure})", "", SEE_LOG) from failure
    return bytes(content)
