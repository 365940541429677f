"""The bill: running time of each instance, by the second."""

import json
import sqlite3

from localcloud.database import now
from localcloud.salad.catalog import dollars_an_hour


class InstanceBilling:
    def __init__(self, database: sqlite3.Connection) -> None:
        self._db = database
        self._updated = 0.0

    def open(self, instance: sqlite3.Row, group: sqlite3.Row) -> None:
        body = json.loads(group["body"])
        gpus = body["container"]["resources"].get("gpu_classes") or []
        price = dollars_an_hour(gpus, body["priority"])
        values = (instance["id"], group["id"], group["name"], instance["machine_id"], ",".join(gpus))
        self._db.execute(
            # A restarted instance already has a row in the table. The short time in which it restarts
            # is billed as well.
            "INSERT INTO billing VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, 1) ON CONFLICT DO UPDATE SET open = 1",
            (*values, body["priority"], price, now(), now()),
        )

    def update(self) -> None:
        """Extend all open bills, once a second: a killed daemon loses no more than that."""
        if now() >= self._updated + 1:
            self._updated = now()
            self._db.execute("UPDATE billing SET billed_until = ? WHERE open = 1", (self._updated,))

    def close(self, instance_id: str) -> None:
        self._db.execute(
            "UPDATE billing SET billed_until = ?, open = 0 WHERE instance_id = ? AND open = 1",
            (now(), instance_id),
        )
