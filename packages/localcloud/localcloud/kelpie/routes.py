"""Kelpie's HTTP API, as its OpenAPI document, the recorded transcript and docs/services.md describe it."""

import json
import re
from typing import Any, TypeVar

from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.types import ASGIApp, Receive, Scope, Send

from localcloud.home import HomeState
from localcloud.kelpie.jobs import JobTable
from localcloud.kelpie.rules import RuleTable
from localcloud.kelpie.validation import (
    UNKNOWN_QUERY,
    InvalidRequestError,
    JobBatch,
    JobSubmission,
    Machine,
    NewRule,
    QueryValues,
    RefusedRequestError,
    RuleChanges,
    UncaughtError,
    filter_and_page,
    parse_body,
    query_values,
    stored_job,
    validated,
    with_surrogates,
)
from localcloud.kelpie.webhooks import Webhooks
from localcloud.salad.groups import GroupTable
from localcloud.web.routing import Handler, app_with_caller_check

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

    def app(self) -> ASGIApp:
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
        on_error: dict[Any, Any] = {
            InvalidRequestError: invalid_request_response,
            RefusedRequestError: refused,
            UncaughtError: crash_response,
        }
        app = app_with_caller_check(table, self.not_found, self.check_caller, on_error)
        return KelpiePaths(app)

    def check_caller(self, request: Request) -> None:
        """Raises RefusedRequestError for an unauthenticated caller."""
        headers, state = {name: value.strip() for name, value in request.headers.items()}, self.state
        key, bearer = headers.get("salad-api-key"), headers.get("authorization")
        organization, project = headers.get("salad-organization"), headers.get("salad-project")
        if key and not (organization and project):
            message = "Salad API Key requires Salad-Organization and Salad-Project headers"
            raise RefusedRequestError(400, "Bad Request", message)
        if bearer and not project:
            raise RefusedRequestError(400, "Bad Request", "Bearer Token requires Salad-Project header")
        if headers.get("x-kelpie-key"):
            raise forbidden(
                "Invalid API Key"
            )  # Kelpie's older kind of API key, which no account in the local cloud has
        if key:
            if key != state.salad_api_key:
                raise forbidden("Invalid API Key")
            if organization != state.organization:
                raise forbidden("Invalid Organization Name")
        elif bearer and bearer.startswith("Bearer "):
            token = bearer.removeprefix("Bearer ")
            if not self.groups.is_node_token(token):
                raise forbidden("signature verification failed" if token.count(".") == 2 else "Invalid JWT")
        else:
            raise RefusedRequestError(401, "Unauthorized", "API Key or Bearer Token Required")
        if project != state.project:
            place = f"{state.organization}/{project}"
            raise forbidden(
                f"Invalid Project '{project}': Failed to fetch container groups in project {place}: 404: "
            )

    # ---- jobs

    async def create_job(self, request: Request) -> Response:
        job = await validated_body(JobSubmission, request)
        return JsonAnswer(self.jobs.create(stored_job(job)), 202)

    async def create_batch(self, request: Request) -> Response:
        batch: list[JobSubmission] = await validated_body(JobBatch, request)
        jobs = [stored_job(job, index=index) for index, job in enumerate(batch)]
        return JsonAnswer(self.jobs.create_batch(jobs), 202)

    async def list_jobs(self, request: Request) -> Response:
        jobs = self.jobs.page(**filter_and_page(asked(request)))
        return JsonAnswer({"_count": len(jobs), "jobs": jobs})

    async def get_job(self, request: Request) -> Response:
        refuse_query(request)
        return JsonAnswer(require_job(self.jobs.get(request.path_params["id"])))

    async def cancel_job(self, request: Request) -> Response:
        refuse_query(request)
        self.jobs.cancel(request.path_params["id"])
        return JsonAnswer({"message": "Job canceled"}, 202)

    async def purge_jobs(self, request: Request) -> Response:
        refuse_query(request)
        return JsonAnswer({"count": self.jobs.purge(request.path_params["group"])})

    # ---- nodes

    async def get_work(self, request: Request) -> Response:
        node = validated(Machine, query_values(request.query_params.multi_items()), "query")
        job = await self.jobs.hand_out(node.machine_id, node.container_group_id)
        self.webhooks.fire(job, node, "running")
        return JsonAnswer([] if job is None else [job])

    async def heartbeat(self, request: Request) -> Response:
        node = await validated_body(Machine, request)
        status = self.jobs.heartbeat(request.path_params["id"], node.machine_id)
        return JsonAnswer({"status": require_job(status)})

    async def report_failed(self, request: Request) -> Response:
        node = await validated_body(Machine, request)
        identity = request.path_params["id"]
        if require_job(self.jobs.fail(identity, node.machine_id)) == "failed":
            self.webhooks.fire(self.jobs.get(identity), node, "failed")
        return JsonAnswer({"message": "Failure reported"}, 202)

    async def report_completed(self, request: Request) -> Response:
        node = await validated_body(Machine, request)
        identity = request.path_params["id"]
        self.jobs.complete(identity, node.machine_id)
        self.webhooks.fire(self.jobs.get(identity), node, "completed")
        return JsonAnswer({"message": "Completed reported"})

    # ---- scaling rules

    async def create_rule(self, request: Request) -> Response:
        fields = (await validated_body(NewRule, request)).model_dump()
        name = self.groups.group_name(fields["container_group_id"])
        if name is None:
            raise RefusedRequestError(400, "Container Group Not Found", "No container group found for ID")
        rule = self.rules.create(fields, self.state.organization, self.state.project, name)
        return JsonAnswer(rule, 201)

    async def list_rules(self, request: Request) -> Response:
        refuse_query(request)
        rules = self.rules.all()
        return JsonAnswer({"_count": len(rules), "rules": rules})

    async def get_rule(self, request: Request) -> Response:
        refuse_query(request)
        return found_rule(self.rules.get(request.path_params["id"]))

    async def update_rule(self, request: Request) -> Response:
        changes = await validated_body(RuleChanges, request)
        # The group's id comes from the URL path; an id in the body is ignored.
        fields = changes.model_dump(exclude_unset=True, exclude={"container_group_id"})
        if not fields:
            raise UncaughtError("No fields to update")
        return found_rule(self.rules.update(request.path_params["id"], fields))

    async def delete_rule(self, request: Request) -> Response:
        refuse_query(request)
        self.rules.delete(request.path_params["id"])
        return Response(status_code=204)

    # ---- the rest

    async def get_user(self, request: Request) -> Response:
        refuse_query(request)
        state = self.state
        return JsonAnswer({"id": state.user_id, "username": state.organization, "created": self.created})

    async def admin_only(self, _request: Request) -> Response:
        raise forbidden("Admin Only")

    async def not_found(self, request: Request) -> Response:
        refuse_query(request)
        raise RefusedRequestError(404, "Route Not Found")


def invalid_request_response(_request: Request, error: InvalidRequestError) -> Response:
    return JsonAnswer({"errors": error.issues, "success": False, "result": {}}, 400)


def refused(_request: Request, error: RefusedRequestError) -> Response:
    """JSON, though sent as text/plain."""
    return Response(json.dumps(error.body), error.status, media_type="text/plain")


def forbidden(message: str) -> RefusedRequestError:
    return RefusedRequestError(403, "Forbidden", message)


def require_job(found: T | None) -> T:
    """What was found of a job. Raises RefusedRequestError for an unknown job."""
    if found is None:
        raise RefusedRequestError(404, "Not Found", "Job not found")
    return found


def found_rule(rule: dict[str, Any] | None) -> Response:
    if rule is None:
        message = "No scaling rule found for container group ID"
        raise RefusedRequestError(404, "Scaling Rule Not Found", message)
    return JsonAnswer(rule)


def crash_response(_request: Request, error: UncaughtError) -> Response:
    return Response(f"Error: {error}", 500, media_type="text/plain")


def asked(request: Request) -> QueryValues:
    """The query. Raises UncaughtError for a name at which Kelpie crashes."""
    query = query_values(request.query_params.multi_items())
    if "__proto__" in query:
        raise UncaughtError("Cannot read properties of undefined (reading 'typeName')")
    return query


def refuse_query(request: Request) -> None:
    """Raises InvalidRequestError for a query at a path that has none."""
    if request.url.query:
        raise InvalidRequestError([UNKNOWN_QUERY])


async def validated_body(schema: type[T], request: Request) -> T:
    """The request's JSON, whatever its content type. Raises InvalidRequestError."""
    further = [UNKNOWN_QUERY] if request.url.query else []
    return validated(schema, parse_body(await request.body()), further=further)


class JsonAnswer(JSONResponse):
    def render(self, content: Any) -> bytes:
        return with_surrogates(super().render(content).decode()).encode()


class KelpiePaths:
    """Kelpie's reading of paths: slashes at the end do not count, escapes stay as they are, HEAD finds nothing, OPTIONS everything."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        if scope["method"] == "OPTIONS":
            is_browser = Headers(scope=scope).get("access-control-request-method")
            await Response(media_type="application/json" if is_browser else None)(scope, receive, send)
            return
        raw = scope.get("raw_path") or scope["path"].encode()
        root = scope.get("root_path", "")
        path = raw.partition(b"?")[0].decode("latin-1")
        below = resolve_dot_segments(path.removeprefix(root)).rstrip("/") or "/"
        if scope["method"] == "HEAD":
            below = "/no route"
        await self._app({**scope, "path": root + below}, receive, send)


def resolve_dot_segments(path: str) -> str:
    """The path with its segments `.` and `..`, which may be escaped, resolved as in every URL."""
    kept: list[str] = []
    for part in path.split("/"):
        dots = re.sub("(?i)%2e", ".", part)
        if dots == "..":
            del kept[max(1, len(kept) - 1) :]
        elif dots != ".":
            kept.append(part)
    return "/".join(kept)
