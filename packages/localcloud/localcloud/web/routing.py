"""What the APIs have in common: a check of the caller before each request, and one answer for unknown paths."""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

Handler = Callable[[Request], Awaitable[Response]]
METHODS = ("GET", "POST", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS")


def app_with_caller_check(
    table: Sequence[tuple[str, str, Handler]],
    not_found: Handler,
    check_caller: Callable[[Request], None],
    on_error: Mapping[Any, Callable[[Request, Any], Response]],
) -> Starlette:
    """An application with the routes (method, path, handler) of `table`.

    `check_caller` runs first, also for unknown paths. `on_error` maps exceptions to answers.
    """

    def guarded(handler: Handler) -> Handler:
        async def checked(request: Request) -> Response:
            check_caller(request)
            return await handler(request)

        return checked

    routes = [Route(path, guarded(handler), methods=[method]) for method, path, handler in table]
    unknown = Route("/{rest:path}", guarded(not_found), methods=METHODS)
    return Starlette(routes=[*routes, unknown], exception_handlers=on_error)
