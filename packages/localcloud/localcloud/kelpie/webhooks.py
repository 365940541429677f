"""Webhooks: posted once, unsigned, whatever comes of it (UPSTREAM.md)."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import httpx

log = logging.getLogger(__name__)


class Webhooks:
    """Posts in the background."""

    def __init__(self) -> None:
        self._client = httpx.AsyncClient(timeout=10)
        self._posts: set[asyncio.Task[None]] = set()

    def fire(self, job: dict[str, Any] | None, machine_id: str, group_id: str, status: str) -> None:
        """Tell the job's webhook, where it has one, that its status is now `status`."""
        if not job or not job["webhook"]:
            return
        body = {
            "status": status,
            "job_id": job["id"],
            "machine_id": machine_id,
            "container_group_id": group_id,
        }
        task = asyncio.create_task(self._post(job["webhook"], body))
        self._posts.add(task)
        task.add_done_callback(self._posts.discard)

    async def _post(self, url: str, body: dict[str, Any]) -> None:
        try:
            await self._client.post(url, json=body)
        except (httpx.HTTPError, httpx.InvalidURL, ValueError) as error:
            log.info("webhook of job %s not delivered: %s", body["job_id"], type(error).__name__)

    async def close(self) -> None:
        """Give up what is still being posted."""
        for task in self._posts:
            task.cancel()
        await self._client.aclose()
