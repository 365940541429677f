"""SaladCloud's errors: ProblemDetails, sent as application/json (UPSTREAM.md)."""

from __future__ import annotations

from starlette.responses import JSONResponse, Response

TITLES = {
    400: "Bad Request",
    401: "Unauthorized",
    403: "Forbidden",
    404: "Not Found",
    409: "Conflict",
    415: "Unsupported Media Type",
    429: "Too Many Requests",
}


class ProblemError(Exception):
    """A request that is refused: HTTP status, what is wrong, and for a bad body the fields and why."""

    def __init__(
        self,
        status: int,
        detail: str,
        fields: dict[str, list[str]] | None = None,
        kind: str = "about:blank",
        headers: dict[str, str] | None = None,
    ) -> None:
        super().__init__(detail)
        self.status, self.detail, self.fields, self.kind, self.headers = status, detail, fields, kind, headers

    def response(self) -> Response:
        """The answer."""
        body: dict[str, object] = {
            "type": self.kind,
            "title": TITLES[self.status],
            "status": self.status,
            "detail": self.detail,
        }
        if self.fields:
            body["errors"] = self.fields
        return JSONResponse(body, self.status, self.headers)


def not_found() -> ProblemError:
    """No such organization, project or container group."""
    return ProblemError(404, "The container group could not be found.")
