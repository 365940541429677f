"""A node's requests to Kelpie (src/api.ts of the worker)."""

import logging
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any

import httpx

log = logging.getLogger(__name__)

MAX_ATTEMPTS = 3


class KelpieError(Exception):
    """Kelpie did not answer, or answered with an error, MAX_ATTEMPTS times."""


class WorkerApi:
    """Each request is tried MAX_ATTEMPTS times, with pauses of 1, 2 and 3 seconds."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        """Settings come from the environment that SaladCloud gives a node. Raises KeyError when one is missing."""
        self._machine = {
            "machine_id": environment["SALAD_MACHINE_ID"],
            "container_group_id": environment["SALAD_CONTAINER_GROUP_ID"],
        }
        headers = {
            "Authorization": f"Bearer {environment['NODE_TOKEN']}",
            "Salad-Project": environment.get("SALAD_PROJECT") or environment["SALAD_PROJECT_NAME"],
            "User-Agent": "kelpie-node",
        }
        url = environment["KELPIE_API_URL"].rstrip("/")
        self._http = httpx.Client(
            base_url=url, headers=headers, timeout=30, trust_env=False, follow_redirects=True
        )

    def work(self) -> dict[str, Any] | None:
        """The next job, or None."""
        jobs = self._request("GET", "/work", params=self._machine)
        return jobs[0] if jobs else None

    def heartbeat(self, job_id: str) -> str:
        return str(self._request("POST", f"/jobs/{job_id}/heartbeat", json=self._machine)["status"])

    def completed(self, job_id: str) -> None:
        self._request("POST", f"/jobs/{job_id}/completed", json=self._machine)

    def failed(self, job_id: str) -> None:
        self._request("POST", f"/jobs/{job_id}/failed", json=self._machine)

    def _request(self, method: str, path: str, **parts: Any) -> Any:
        problem = ""
        for attempt in range(1, MAX_ATTEMPTS + 1):
            try:
                response = self._http.request(method, path, **parts)
                if response.is_success:
                    return response.json()
                problem = f"{response.status_code} {response.text[:300]}"
            except (httpx.HTTPError, ValueError) as error:
                problem = f"{type(error).__name__}: {error}"
            log.warning("%s %s: %s", method, path, problem)
            time.sleep(attempt)
        raise KelpieError(f"{method} {path}: {problem}")


class Heartbeat:
    """The heartbeats of a job: one at once, then one every `seconds`. Calls `on_cancel` when Kelpie answers `canceled`."""

    def __init__(self, api: WorkerApi, job_id: str, seconds: float, on_cancel: Callable[[], None]) -> None:
        self._api, self._job_id, self._seconds, self._on_cancel = api, job_id, seconds, on_cancel
        self._active = True
        self._thread = threading.Thread(target=self._beat, daemon=True, name=f"heartbeat-{job_id}")
        self._thread.start()

    def _beat(self) -> None:
        while self._active:
            try:
                status = self._api.heartbeat(self._job_id)
            except KelpieError as error:
                log.error("heartbeat: %s", error)
                continue
            if status == "canceled":
                log.info("job %s was canceled", self._job_id)
                self._on_cancel()
                return
            time.sleep(self._seconds)

    def wait_for_cancel(self) -> None:
        self._thread.join()

    def stop(self) -> None:
        """Stop. Like the worker, wait for the pause after the last one, so that `completed` is reported up to one interval late."""
        self._active = False
        self._thread.join()
