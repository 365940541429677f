"""SaladCloud's errors: ProblemDetails, sent as application/json."""

from http import HTTPStatus

from starlette.requests import Request
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


def problem_response(_request: Request, error: ProblemError) -> Response:
    title = HTTPStatus(error.status).phrase
    body = {"type": error.kind, "title": title, "status": error.status, "detail": error.detail}
    return JSONResponse(
        body | ({"errors": error.fields} if error.fields else {}), error.status, error.headers
    )


def not_found() -> ProblemError:
    return ProblemError(404, "The container group could not be found.")
