"""What a node asks of Kelpie (src/api.ts of the worker)."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from typing import Any

import httpx

log = logging.getLogger(__name__)

RETRIES = 3


class KelpieError(Exception):
    """Kelpie did not answer, or answered with an error, RETRIES times."""


class Kelpie:
    """The four requests of a node; every one is tried RETRIES times, after pauses of 1, 2 and 3 seconds."""

    def __init__(self, url: str, token: str, project: str, machine_id: str, container_group_id: str) -> None:
        self._machine = {"machine_id": machine_id, "container_group_id": container_group_id}
        headers = {
            "Authorization": f"Bearer {token}",
            "Salad-Project": project,
            "User-Agent": "kelpie-node",
        }
        self._http = httpx.Client(
            base_url=url.rstrip("/"), headers=headers, timeout=30, trust_env=False, follow_redirects=True
        )

    def work(self) -> dict[str, Any] | None:
        """The job to do now, None when there is none."""
        jobs = self._request("GET", "/work", params=self._machine)
        return jobs[0] if jobs else None

    def heartbeat(self, job_id: str) -> str:
        """The job's status."""
        return str(self._request("POST", f"/jobs/{job_id}/heartbeat", json=self._machine)["status"])

    def completed(self, job_id: str) -> None:
        """Report the job done."""
        self._request("POST", f"/jobs/{job_id}/completed", json=self._machine)

    def failed(self, job_id: str) -> None:
        """Report one failure of the job."""
        self._request("POST", f"/jobs/{job_id}/failed", json=self._machine)

    def _request(self, method: str, path: str, **parts: Any) -> Any:
        problem = ""
        for attempt in range(1, RETRIES + 1):
            try:
                response = self._http.request(method, path, **parts)
                if response.is_success:
                    return response.json()
                problem = f"{response.status_code} {response.text[:300]}"
            except (httpx.HTTPError, ValueError) as err:
                problem = f"{type(err).__name__}: {err}"
            log.warning("%s %s: %s", method, path, problem)
            time.sleep(attempt)
        raise KelpieError(f"{method} {path}: {problem}")


class Heartbeat:
    """One job's heartbeats: the first at once, then every `seconds`; `on_cancel` once Kelpie says `canceled`."""

    def __init__(self, kelpie: Kelpie, job_id: str, seconds: float, on_cancel: Callable[[], None]) -> None:
        self._kelpie, self._job_id, self._seconds, self._on_cancel = kelpie, job_id, seconds, on_cancel
        self._active = True
        self._thread = threading.Thread(target=self._beat, daemon=True, name=f"heartbeat-{job_id}")
        self._thread.start()

    def _beat(self) -> None:
        while self._active:
            try:
                status = self._kelpie.heartbeat(self._job_id)
            except KelpieError as err:
                log.error("heartbeat: %s", err)
                continue
            if status == "canceled":
                log.info("job %s was canceled", self._job_id)
                self._on_cancel()
                return
            time.sleep(self._seconds)

    def stop(self) -> None:
        """No more of them. Waits until the pause after the last one is over, as the worker does: the report that
        a job is completed comes up to one interval late."""
        self._active = False
        self._thread.join()
