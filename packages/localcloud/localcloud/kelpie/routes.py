"""Kelpie's HTTP API, as its OpenAPI document, the recorded transcript and docs/services.md describe it."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from typing import Any, Protocol

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from localcloud.home import HomeState
from localcloud.kelpie import validation
from localcloud.kelpie.jobs import JobTable, StatusConstraintError, TooManyJobsError
from localcloud.kelpie.rules import DuplicateRuleError, RuleTable
from localcloud.kelpie.validation import MISSING, InvalidRequestError, RefusedRequestError
from localcloud.kelpie.webhooks import Webhooks
from localcloud.web.request_bodies import parse_json

Handler = Callable[[Request], Awaitable[Response]]


class GroupDirectory(Protocol):
    """The part of SaladCloud that Kelpie's requests need."""

    def group_name(self, group_id: str) -> str | None: ...

    def is_node_token(self, token: str) -> bool: ...


def error(status: int, kind: str, message: str | None = None, **more: Any) -> Response:
    """An error of Kelpie's own code: JSON sent as text/plain."""
    body = {"error": kind} | ({} if message is None else {"message": message}) | more
    return Response(json.dumps(body), status, media_type="text/plain")


class KelpieRoutes:
    """The API of the only account, which was created at the time `created`."""

    def __init__(
        self,
        state: HomeState,
        created: str,
        jobs: JobTable,
        rules: RuleTable,
        groups: GroupDirectory,
        webhooks: Webhooks,
    ) -> None:
        self.state, self.created, self.jobs, self.rules = state, created, jobs, rules
        self.groups, self.webhooks = groups, webhooks

    def app(self) -> Starlette:
        """The routes. Unknown paths are 404 for authenticated callers only."""
        table: list[tuple[str, str, Handler]] = [
            ("POST", "/jobs", self.create_job),
            ("GET", "/jobs", self.list_jobs),
            ("DELETE", "/jobs", self.admin_only),
            ("POST", "/jobs/batch", self.create_batch),
            ("DELETE", "/jobs/container-groups/{group}", self.purge_jobs),
            ("GET", "/jobs/{id}", self.get_job),
            ("DELETE", "/jobs/{id}", self.cancel_job),
            ("POST", "/jobs/{id}/heartbeat", self.heartbeat),
            ("POST", "/jobs/{id}/failed", self.report_failed),
            ("POST", "/jobs/{id}/completed", self.report_completed),
            ("GET", "/work", self.get_work),
            ("POST", "/scaling-rules", self.create_rule),
            ("GET", "/scaling-rules", self.list_rules),
            ("DELETE", "/scaling-rules", self.admin_only),
            ("GET", "/scaling-rules/{id}", self.get_rule),
            ("PATCH", "/scaling-rules/{id}", self.update_rule),
            ("DELETE", "/scaling-rules/{id}", self.delete_rule),
            ("GET", "/users/me", self.get_user),
            ("POST", "/users", self.admin_only),
            ("DELETE", "/users", self.admin_only),
            ("POST", "/users/{id}/token", self.admin_only),
        ]
        routes = [Route(path, self._guarded(handler), methods=[method]) for method, path, handler in table]
        not_found = self._guarded(self.not_found)
        fallback = ["GET", "POST", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS"]
        return Starlette(routes=[*routes, Route("/{rest:path}", not_found, methods=fallback)])

    def _guarded(self, handler: Handler) -> Handler:
        async def guarded(request: Request) -> Response:
            refusal = self.refusal(request)
            if refusal is not None:
                return refusal
            try:
                return await handler(request)
            except InvalidRequestError as invalid:
                return JSONResponse({"errors": invalid.issues, "success": False, "result": {}}, 400)
            except RefusedRequestError as refused:
                where = {} if refused.index is None else {"index": refused.index}
                return error(400, "Invalid request", refused.message, **where)

        return guarded

    def refusal(self, request: Request) -> Response | None:
        """The refusal of an unauthenticated caller, or None."""
        headers, state = request.headers, self.state
        key, bearer = headers.get("salad-api-key"), headers.get("authorization")
        organization, project = headers.get("salad-organization"), headers.get("salad-project")
        if key and not (organization and project):
            return error(
                400, "Bad Request", "Salad API Key requires Salad-Organization and Salad-Project headers"
            )
        if bearer and not project:
            return error(400, "Bad Request", "Bearer Token requires Salad-Project header")
        if key:
            if key != state.salad_api_key:
                return error(403, "Forbidden", "Invalid API Key")
            if organization != state.organization:
                return error(403, "Forbidden", "Invalid Organization Name")
        elif bearer and bearer.startswith("Bearer "):
            if not self.groups.is_node_token(bearer.removeprefix("Bearer ")):
                return error(403, "Forbidden", "signature verification failed")
        else:
            return error(401, "Unauthorized", "API Key or Bearer Token Required")
        if project != state.project:
            return error(
                403, "Forbidden", f"Invalid Project '{project}': Failed to list container groups: 404"
            )
        return None

    # ---- jobs

    async def create_job(self, request: Request) -> Response:
        job = validation.job_submission(await body_of(request), ["body"])
        return JSONResponse(self.jobs.create(validation.normalised_storage(job)), 202)

    async def create_batch(self, request: Request) -> Response:
        batch = validation.job_batch(await body_of(request))
        jobs = [validation.normalised_storage(job, index) for index, job in enumerate(batch)]
        try:
            return JSONResponse(self.jobs.create_batch(jobs), 202)
        except TooManyJobsError:
            return internal("too many SQL variables: SQLITE_ERROR")

    async def list_jobs(self, request: Request) -> Response:
        try:
            jobs = self.jobs.page(**validation.filter_and_page(dict(request.query_params)))
        except OverflowError:
            return internal("datatype mismatch: SQLITE_MISMATCH")
        return JSONResponse({"_count": len(jobs), "jobs": jobs})

    async def get_job(self, request: Request) -> Response:
        job = self.jobs.get(request.path_params["id"])
        return error(404, "Not Found", "Job not found") if job is None else JSONResponse(job)

    async def cancel_job(self, request: Request) -> Response:
        self.jobs.cancel(request.path_params["id"])
        return JSONResponse({"message": "Job canceled"}, 202)

    async def purge_jobs(self, request: Request) -> Response:
        try:
            return JSONResponse({"count": self.jobs.purge(request.path_params["group"])})
        except StatusConstraintError:
            return internal("NOT NULL constraint failed: Jobs.status: SQLITE_CONSTRAINT")

    # ---- nodes

    async def get_work(self, request: Request) -> Response:
        machine_id, group = validation.machine(dict(request.query_params), "query")
        job = await self.jobs.hand_out(machine_id, group)
        self.webhooks.fire(job, machine_id, group, "running")
        return JSONResponse([] if job is None else [job])

    async def heartbeat(self, request: Request) -> Response:
        machine_id, _ = validation.machine(await body_of(request), "body")
        status = self.jobs.heartbeat(request.path_params["id"], machine_id)
        if status is None:
            return error(404, "Not Found", "Job not found")
        return JSONResponse({"status": status})

    async def report_failed(self, request: Request) -> Response:
        machine_id, group = validation.machine(await body_of(request), "body")
        identity = request.path_params["id"]
        status = self.jobs.fail(identity, machine_id)
        if status is None:
            return error(404, "Not Found", "Job not found")
        if status == "failed":
            self.webhooks.fire(self.jobs.get(identity), machine_id, group, "failed")
        return JSONResponse({"message": "Failure reported"}, 202)

    async def report_completed(self, request: Request) -> Response:
        machine_id, group = validation.machine(await body_of(request), "body")
        identity = request.path_params["id"]
        self.jobs.complete(identity, machine_id)
        self.webhooks.fire(self.jobs.get(identity), machine_id, group, "completed")
        return JSONResponse({"message": "Completed reported"})

    # ---- scaling rules

    async def create_rule(self, request: Request) -> Response:
        fields = validation.scaling_rule(await body_of(request), partial=False)
        name = self.groups.group_name(fields["container_group_id"])
        if name is None:
            return error(400, "Container Group Not Found", "No container group found for ID")
        try:
            rule = self.rules.create(fields, self.state.organization, self.state.project, name)
        except DuplicateRuleError:
            return internal("UNIQUE constraint failed: ScalingRules.container_group_id: SQLITE_CONSTRAINT")
        return JSONResponse(rule, 201)

    async def list_rules(self, _request: Request) -> Response:
        rules = self.rules.all()
        return JSONResponse({"_count": len(rules), "rules": rules})

    async def get_rule(self, request: Request) -> Response:
        return found_rule(self.rules.get(request.path_params["id"]))

    async def update_rule(self, request: Request) -> Response:
        fields = validation.scaling_rule(await body_of(request), partial=True)
        fields.pop("container_group_id", None)  # the id in the path is used
        if not fields:
            return error(500, "Internal server error", "No fields to update")
        return found_rule(self.rules.update(request.path_params["id"], fields))

    async def delete_rule(self, request: Request) -> Response:
        self.rules.delete(request.path_params["id"])
        return Response(status_code=204)

    # ---- the rest

    async def get_user(self, _request: Request) -> Response:
        state = self.state
        return JSONResponse({"id": state.user_id, "username": state.organization, "created": self.created})

    async def admin_only(self, _request: Request) -> Response:
        return error(403, "Forbidden", "Admin Only")

    async def not_found(self, _request: Request) -> Response:
        return error(404, "Route Not Found")


def internal(message: str) -> Response:
    """A database error that Kelpie passes on."""
    return error(500, "Internal server error", f"D1_ERROR: {message}")


def found_rule(rule: dict[str, Any] | None) -> Response:
    if rule is None:
        return error(404, "Scaling Rule Not Found", "No scaling rule found for container group ID")
    return JSONResponse(rule)


async def body_of(request: Request) -> Any:
    """The request's JSON, whatever its content type. An empty or invalid body is `undefined` to the validator."""
    raw = await request.body()
    try:
        return parse_json(raw) if raw else MISSING
    except ValueError:
        return MISSING
