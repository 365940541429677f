"""Kelpie's HTTP API, as its OpenAPI document, the recorded transcript and docs/services.md describe it."""

import json
from typing import Any, TypeVar

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from localcloud.home import HomeState
from localcloud.kelpie.jobs import JobTable
from localcloud.kelpie.rules import RuleTable
from localcloud.kelpie.validation import (
    MISSING,
    InvalidRequestError,
    JobBatch,
    JobSubmission,
    Machine,
    NewRule,
    RefusedRequestError,
    RuleChanges,
    filter_and_page,
    stored_job,
    validated,
)
from localcloud.kelpie.webhooks import Webhooks
from localcloud.salad.groups import GroupTable
from localcloud.web.request_bodies import parse_json
from localcloud.web.routing import Handler, guarded_app

T = TypeVar("T")


class KelpieRoutes:
    """The API of the only account, which was created at the time `created`."""

    def __init__(
        self,
        state: HomeState,
        created: str,
        jobs: JobTable,
        rules: RuleTable,
        groups: GroupTable,
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
        on_error: dict[Any, Any] = {InvalidRequestError: invalid, RefusedRequestError: refused}
        return guarded_app(table, self.not_found, self.check_caller, on_error)

    def check_caller(self, request: Request) -> None:
        """Raises RefusedRequestError for an unauthenticated caller."""
        headers, state = request.headers, self.state
        key, bearer = headers.get("salad-api-key"), headers.get("authorization")
        organization, project = headers.get("salad-organization"), headers.get("salad-project")
        if key and not (organization and project):
            message = "Salad API Key requires Salad-Organization and Salad-Project headers"
            raise RefusedRequestError(400, "Bad Request", message)
        if bearer and not project:
            raise RefusedRequestError(400, "Bad Request", "Bearer Token requires Salad-Project header")
        if key:
            if key != state.salad_api_key:
                raise forbidden("Invalid API Key")
            if organization != state.organization:
                raise forbidden("Invalid Organization Name")
        elif bearer and bearer.startswith("Bearer "):
            if not self.groups.is_node_token(bearer.removeprefix("Bearer ")):
                raise forbidden("signature verification failed")
        else:
            raise RefusedRequestError(401, "Unauthorized", "API Key or Bearer Token Required")
        if project != state.project:
            raise forbidden(f"Invalid Project '{project}': Failed to list container groups: 404")

    # ---- jobs

    async def create_job(self, request: Request) -> Response:
        job = validated(JobSubmission, await body_of(request))
        return JSONResponse(self.jobs.create(stored_job(job)), 202)

    async def create_batch(self, request: Request) -> Response:
        batch: list[JobSubmission] = validated(JobBatch, await body_of(request))
        jobs = [stored_job(job, index=index) for index, job in enumerate(batch)]
        return JSONResponse(self.jobs.create_batch(jobs), 202)

    async def list_jobs(self, request: Request) -> Response:
        jobs = self.jobs.page(**filter_and_page(dict(request.query_params)))
        return JSONResponse({"_count": len(jobs), "jobs": jobs})

    async def get_job(self, request: Request) -> Response:
        return JSONResponse(existing(self.jobs.get(request.path_params["id"])))

    async def cancel_job(self, request: Request) -> Response:
        self.jobs.cancel(request.path_params["id"])
        return JSONResponse({"message": "Job canceled"}, 202)

    async def purge_jobs(self, request: Request) -> Response:
        return JSONResponse({"count": self.jobs.purge(request.path_params["group"])})

    # ---- nodes

    async def get_work(self, request: Request) -> Response:
        node = validated(Machine, dict(request.query_params), "query")
        job = await self.jobs.hand_out(node.machine_id, node.container_group_id)
        self.webhooks.fire(job, node, "running")
        return JSONResponse([] if job is None else [job])

    async def heartbeat(self, request: Request) -> Response:
        node = validated(Machine, await body_of(request))
        status = self.jobs.heartbeat(request.path_params["id"], node.machine_id)
        return JSONResponse({"status": existing(status)})

    async def report_failed(self, request: Request) -> Response:
        node = validated(Machine, await body_of(request))
        identity = request.path_params["id"]
        if existing(self.jobs.fail(identity, node.machine_id)) == "failed":
            self.webhooks.fire(self.jobs.get(identity), node, "failed")
        return JSONResponse({"message": "Failure reported"}, 202)

    async def report_completed(self, request: Request) -> Response:
        node = validated(Machine, await body_of(request))
        identity = request.path_params["id"]
        self.jobs.complete(identity, node.machine_id)
        self.webhooks.fire(self.jobs.get(identity), node, "completed")
        return JSONResponse({"message": "Completed reported"})

    # ---- scaling rules

    async def create_rule(self, request: Request) -> Response:
        fields = validated(NewRule, await body_of(request)).model_dump()
        name = self.groups.group_name(fields["container_group_id"])
        if name is None:
            raise RefusedRequestError(400, "Container Group Not Found", "No container group found for ID")
        rule = self.rules.create(fields, self.state.organization, self.state.project, name)
        return JSONResponse(rule, 201)

    async def list_rules(self, _request: Request) -> Response:
        rules = self.rules.all()
        return JSONResponse({"_count": len(rules), "rules": rules})

    async def get_rule(self, request: Request) -> Response:
        return found_rule(self.rules.get(request.path_params["id"]))

    async def update_rule(self, request: Request) -> Response:
        changes = validated(RuleChanges, await body_of(request))
        # The id in the path is used.
        fields = changes.model_dump(exclude_unset=True, exclude={"container_group_id"})
        if not fields:
            raise RefusedRequestError(500, "Internal server error", "No fields to update")
        return found_rule(self.rules.update(request.path_params["id"], fields))

    async def delete_rule(self, request: Request) -> Response:
        self.rules.delete(request.path_params["id"])
        return Response(status_code=204)

    # ---- the rest

    async def get_user(self, _request: Request) -> Response:
        state = self.state
        return JSONResponse({"id": state.user_id, "username": state.organization, "created": self.created})

    async def admin_only(self, _request: Request) -> Response:
        raise forbidden("Admin Only")

    async def not_found(self, _request: Request) -> Response:
        raise RefusedRequestError(404, "Route Not Found")


def invalid(_request: Request, error: InvalidRequestError) -> Response:
    return JSONResponse({"errors": error.issues, "success": False, "result": {}}, 400)


def refused(_request: Request, error: RefusedRequestError) -> Response:
    """JSON, though sent as text/plain."""
    return Response(json.dumps(error.body), error.status, media_type="text/plain")


def forbidden(message: str) -> RefusedRequestError:
    return RefusedRequestError(403, "Forbidden", message)


def existing(found: T | None) -> T:
    """What was found of a job. Raises RefusedRequestError for an unknown job."""
    if found is None:
        raise RefusedRequestError(404, "Not Found", "Job not found")
    return found


def found_rule(rule: dict[str, Any] | None) -> Response:
    if rule is None:
        message = "No scaling rule found for container group ID"
        raise RefusedRequestError(404, "Scaling Rule Not Found", message)
    return JSONResponse(rule)


async def body_of(request: Request) -> Any:
    """The request's JSON, whatever its content type. An empty or invalid body is `undefined` to the validator."""
    raw = await request.body()
    try:
        return parse_json(raw) if raw else MISSING
    except ValueError:
        return MISSING
