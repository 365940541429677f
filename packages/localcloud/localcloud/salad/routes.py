"""SaladCloud's HTTP API below /salad/api/public, as salad-cloud.openapi.yaml and docs/services.md describe it."""

import time
from collections import deque
from collections.abc import Callable
from typing import Any

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from localcloud.home import HomeState
from localcloud.salad.catalog import GPU_CLASSES, GPU_IDS, PRIORITIES
from localcloud.salad.groups import GroupTable
from localcloud.salad.problems import ProblemError, not_found, problem_response
from localcloud.web.request_bodies import parse_json
from localcloud.web.routing import Handler, app_with_caller_check

MERGE_PATCH = "application/merge-patch+json"
ACCEPTED = 202


class RateLimit:
    """At most `limit` requests in any 60 seconds."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._times: deque[float] = deque()

    def take(self) -> float | None:
        """Count a request. Returns None, or the seconds to wait when the limit is reached."""
        moment = time.monotonic()
        while self._times and self._times[0] <= moment - 60:
            self._times.popleft()
        if len(self._times) >= self.limit:
            return self._times[0] + 60 - moment
        self._times.append(moment)
        return None


class SaladRoutes:
    def __init__(self, groups: GroupTable, state: HomeState, requests_per_minute: int) -> None:
        self.groups, self._state = groups, state
        self._limit = RateLimit(requests_per_minute)

    def app(self) -> Starlette:
        organization = "/organizations/{organization}"
        many = organization + "/projects/{project}/containers"
        groups = self.groups
        one = many + "/{name}"
        instance = one + "/instances/{instance}"
        table: list[tuple[str, str, Handler]] = [
            ("GET", many, self.list_groups),
            ("POST", many, self.create_group),
            ("GET", one, self.get_group),
            ("PATCH", one, self.patch_group),
            ("DELETE", one, _accepted(groups.delete, "name")),
            ("POST", one + "/start", _accepted(groups.start, "name")),
            ("POST", one + "/stop", _accepted(groups.stop, "name")),
            ("GET", one + "/instances", self.list_instances),
            ("GET", instance, self.get_instance),
            ("PATCH", instance, self.patch_instance),
            ("POST", instance + "/reallocate", _accepted(groups.reallocate, "name", "instance")),
            ("POST", instance + "/recreate", _accepted(groups.restart, "name", "instance")),
            ("POST", instance + "/restart", _accepted(groups.restart, "name", "instance")),
            ("GET", organization + "/gpu-classes", self.gpu_classes),
            ("GET", organization + "/quotas", self.quotas),
            ("POST", organization + "/availability/sce-gpu-availability", self.gpu_availability),
        ]
        return app_with_caller_check(table, _not_found, self._check_caller, {ProblemError: problem_response})

    def _check_caller(self, request: Request) -> None:
        state, path = self._state, request.path_params
        if request.headers.get("salad-api-key") != state.salad_api_key:
            raise ProblemError(401, "The Salad-Api-Key header is missing or its key is not valid.")
        wait = self._limit.take()
        if wait is not None:
            detail = f"{self._limit.limit} requests a minute are allowed."
            raise ProblemError(429, detail, headers={"Retry-After": str(int(wait) + 1)})
        if path.get("organization", state.organization) != state.organization:
            raise ProblemError(404, "The organization could not be found.")
        if path.get("project", state.project) != state.project:
            raise ProblemError(404, "The project could not be found.")

    async def list_groups(self, _request: Request) -> Response:
        return JSONResponse({"items": self.groups.all()})

    async def create_group(self, request: Request) -> Response:
        group = self.groups.create(await _body(request, "application/json"))
        state, name = self._state, group["name"]
        place = f"/organizations/{state.organization}/projects/{state.project}/containers/{name}"
        return JSONResponse(group, 201, {"Location": place})

    async def get_group(self, request: Request) -> Response:
        return JSONResponse(self.groups.get(request.path_params["name"]))

    async def patch_group(self, request: Request) -> Response:
        group = self.groups.patch(request.path_params["name"], await _body(request, MERGE_PATCH))
        return JSONResponse(group, media_type=MERGE_PATCH)

    async def list_instances(self, request: Request) -> Response:
        return JSONResponse({"instances": self.groups.instances(request.path_params["name"])})

    async def get_instance(self, request: Request) -> Response:
        shown = self.groups.instance(request.path_params["name"], request.path_params["instance"])
        return JSONResponse(shown, ACCEPTED)  # as in salad-cloud.openapi.yaml

    async def patch_instance(self, request: Request) -> Response:
        name, identity = request.path_params["name"], request.path_params["instance"]
        return JSONResponse(self.groups.set_deletion_cost(name, identity, await _body(request, MERGE_PATCH)))

    async def gpu_classes(self, _request: Request) -> Response:
        return JSONResponse({"items": GPU_CLASSES})

    async def gpu_availability(self, request: Request) -> Response:
        """The stand-in's nodes have every GPU class; as many replicas can start as the quota leaves."""
        body = await _body(request, "application/json")
        classes = body.get("gpu_classes") if isinstance(body, dict) else None
        if not isinstance(classes, list) or not classes or not GPU_IDS.issuperset(classes):
            raise ProblemError(400, "gpu_classes must be a list of one or more GPU classes.")
        free = max(0, self.groups.quota - self.groups.replicas_used())
        return JSONResponse(
            {f"available_gpu_{priority}": free for priority in PRIORITIES} | {"on_call_gpu": 0}
        )

    async def quotas(self, _request: Request) -> Response:
        quota, used = self.groups.quota, self.groups.replicas_used()
        numbers = {"container_replicas_quota": quota, "container_replicas_used": used}
        return JSONResponse({"container_groups_quotas": numbers})


def _accepted(action: Callable[..., None], *parameters: str) -> Handler:
    """A handler that calls `action` with these parts of the path, and answers 202 without a body."""

    async def handler(request: Request) -> Response:
        action(*(request.path_params[name] for name in parameters))
        return Response(status_code=ACCEPTED)

    return handler


async def _not_found(_request: Request) -> Response:
    raise not_found()


async def _body(request: Request, media_type: str) -> Any:
    """The request's JSON. Raises ProblemError: 415 for another content type, 400 for invalid JSON."""
    given = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if given != media_type:
        raise ProblemError(415, f"The content type must be {media_type}, not {given or 'missing'}.")
    try:
        return parse_json(await request.body())
    except ValueError:
        raise ProblemError(400, "The request body is not JSON.") from None
