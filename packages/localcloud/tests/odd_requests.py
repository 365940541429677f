"""Plays odd requests against a Kelpie API, and compares the answers with those of the real one.

    python odd_requests.py CONNECTION_JSON REQUESTS_JSONL [KELPIE_URL]

prints the requests with the answers of that server. The recording in data/ was made so, from the real API on loopback.
Each line is a step: name, method, path, headers (null: left out), body as text, `save` (name of the job's id), and the answer.
"""

import http.client
import json
import re
import sys
import uuid
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

Step = dict[str, Any]

GROUP_NAME = re.compile(r"odd-[0-9a-f]{8}")
UUID = re.compile(r"[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")
ISO_TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z")
SQL_TIME = re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d")


class OddRequests:
    """Sends the steps in order. `group`: the id of an existing container group."""

    def __init__(self, connection: dict[str, Any], group: str) -> None:
        self._address, salad = urlsplit(connection["kelpie"]["url"]), connection["salad"]
        self._headers = {
            "Salad-Api-Key": salad["api_key"],
            "Salad-Organization": salad["organization"],
            "Salad-Project": salad["project"],
            "Content-Type": "application/json",
        }
        self._known = {
            "key": salad["api_key"],
            "group": group,
            "GROUP": group.upper(),
            "group_hex": uuid.UUID(group).hex,
        }

    def play(self, step: Step) -> dict[str, Any]:
        """The answer, with placeholders for ids and times."""
        connection = http.client.HTTPConnection(self._address.hostname or "", self._address.port, timeout=60)
        headers = {**self._headers, **step.get("headers", {})}
        body = self._fill(step["body"]).encode() if "body" in step else None
        connection.putrequest(
            step["method"], self._address.path + self._fill(step["path"]), skip_accept_encoding=True
        )
        for name, value in headers.items():
            if value is not None:
                connection.putheader(name, self._fill(value))
        if body is not None:
            connection.putheader("Content-Length", str(len(body)))
        connection.endheaders(body)
        answer = connection.getresponse()
        raw = answer.read()
        connection.close()
        found: Any = raw.decode(errors="replace")
        is_json = True
        try:
            found = json.loads(raw)
        except ValueError:
            is_json = False
        if "save" in step:
            self._known[step["save"]] = found["id"]
        if answer.status == 500 and not is_json:
            found = "<an exception that nothing catches>"
        media_type = (answer.headers.get("Content-Type") or "").partition(";")[0].replace("null", "")
        return {"status": answer.status, "type": media_type, "json": is_json, "body": self._normal(found)}

    def _fill(self, text: str) -> str:
        for name, value in self._known.items():
            text = text.replace("{{" + name + "}}", value)
        return text

    def _normal(self, value: Any) -> Any:
        """Ids, times and the order of keys differ between servers and runs; jobs created in one second have no order."""
        if isinstance(value, dict):
            shown = {name: self._normal(below) for name, below in sorted(value.items())}
            return shown | ({"jobs": len(value["jobs"])} if isinstance(value.get("jobs"), list) else {})
        if isinstance(value, list):
            return [self._normal(one) for one in value]
        if not isinstance(value, str):
            return value
        for name in ("group", "GROUP", "group_hex"):
            value = value.replace(self._known[name], f"<{name}>")
        value = GROUP_NAME.sub("<group name>", value)
        value = ISO_TIME.sub("<iso-time>", SQL_TIME.sub("<sql-time>", value))
        return UUID.sub("<id>", value)


def main() -> None:
    from group_body import group_body
    from localcloud.testing import salad_client

    connection = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    if len(sys.argv) > 3:
        connection["kelpie"]["url"] = sys.argv[3]
    with salad_client(connection) as salad:
        name = f"odd-{uuid.uuid4().hex[:8]}"
        group = salad.post("/containers", json=group_body(name, replicas=0)).raise_for_status().json()["id"]
        player = OddRequests(connection, group)
        for line in Path(sys.argv[2]).read_text(encoding="utf-8").splitlines():
            step = json.loads(line)
            print(json.dumps({**step, "answer": player.play(step)}))
        salad.delete(f"/containers/{name}")


if __name__ == "__main__":
    main()
