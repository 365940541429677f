"""SaladCloud's errors: ProblemDetails, sent as application/json."""

from __future__ import annotations

from http import HTTPStatus

from starlette.responses import JSONResponse, Response


class ProblemError(Exception):
    """A refused request. `fields` says what is wrong with each field of a request body."""

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
        body: dict[str, object] = {
            "type": self.kind,
            "title": HTTPStatus(self.status).phrase,
            "status": self.status,
            "detail": self.detail,
        }
        if self.fields:
            body["errors"] = self.fields
        return JSONResponse(body, self.status, self.headers)


def not_found() -> ProblemError:
    return ProblemError(404, "The container group could not be found.")
