"""Webhooks: posted once, unsigned and without retries."""

import asyncio
import logging
from typing import Any

import httpx

from localcloud.kelpie.validation import Machine

log = logging.getLogger(__name__)


class Webhooks:
    """Posts in the background."""

    def __init__(self) -> None:
        self._client = httpx.AsyncClient(timeout=10)
        self._posts: set[asyncio.Task[None]] = set()

    def fire(self, job: dict[str, Any] | None, node: Machine, status: str) -> None:
        """Post the new status to the job's webhook, if it has one."""
        if not job or not job["webhook"]:
            return
        body = {"status": status, "job_id": job["id"], **node.model_dump()}
        task = asyncio.create_task(self._post(job["webhook"], body))
        self._posts.add(task)
        task.add_done_callback(self._posts.discard)

    async def _post(self, url: str, body: dict[str, Any]) -> None:
        try:
            await self._client.post(url, json=body)
        except (httpx.HTTPError, httpx.InvalidURL, ValueError) as error:
            log.info("webhook of job %s not delivered: %s", body["job_id"], type(error).__name__)

    async def close(self) -> None:
        for task in self._posts:
            task.cancel()
        await self._client.aclose()
