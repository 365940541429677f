#!/usr/bin/env python3
# A copy of the player that Kelpie was recorded with, kept as it is.
# ruff: noqa
"""Play a scenario of HTTP requests against a Kelpie API and print what came back.

    python transcript.py BASE_URL scenario.json > transcript.json
    python transcript.py BASE_URL scenario.json --check transcript.json [--group ID]

The scenario speaks of one container group that exists: --group names one of yours in its place. Keys come from
SALAD_API_KEY, SALAD_ORGANIZATION and SALAD_PROJECT where they are set.

A scenario is a JSON list of steps: {"name", "method", "path", "body"?, "headers"?, "save"?: {"var": "json.path"}}.
`{{var}}` in a path or a body is replaced by what an earlier step saved. Ids and times are replaced by
placeholders, so that two servers that behave alike give the same transcript. Standard library only.
"""

import json
import os
import re
import sys
import urllib.error
import urllib.request

UUID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")
ISO_TIME = re.compile(r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z$")
SQL_TIME = re.compile(r"^\d{4}-\d\d-\d\d \d\d:\d\d:\d\d$")
GROUP = "014cfb51-fad8-4d9a-a058-68c24477f494"
HEADERS = {
    "Salad-Api-Key": os.environ.get("SALAD_API_KEY", "k"),
    "Salad-Organization": os.environ.get("SALAD_ORGANIZATION", "org"),
    "Salad-Project": os.environ.get("SALAD_PROJECT", "proj"),
    "Content-Type": "application/json",
}


def fill(value, saved):
    if isinstance(value, str):
        for name, content in saved.items():
            value = value.replace("{{" + name + "}}", str(content))
        return value
    if isinstance(value, list):
        return [fill(v, saved) for v in value]
    if isinstance(value, dict):
        return {k: fill(v, saved) for k, v in value.items()}
    return value


def normalise(value, known):
    if isinstance(value, dict):
        return {k: normalise(v, known) for k, v in sorted(value.items())}
    if isinstance(value, list):
        return [normalise(v, known) for v in value]
    if isinstance(value, str):
        if ISO_TIME.match(value):
            return "<iso-time>"
        if SQL_TIME.match(value):
            return "<sql-time>"
        return UUID.sub(lambda m: known.setdefault(m.group(0), f"<id-{len(known) + 1}>"), value)
    return value


def pick(body, path):
    for part in path.split("."):
        body = body[int(part)] if isinstance(body, list) else body[part]
    return body


def play(base, steps):
    saved, known, transcript = {}, {}, []
    for step in steps:
        headers = {**HEADERS, **step.get("headers", {})}
        headers = {k: v for k, v in headers.items() if v is not None}
        body = fill(step["body"], saved) if "body" in step else None
        request = urllib.request.Request(
            base.rstrip("/") + fill(step["path"], saved),
            method=step["method"],
            headers=headers,
            data=None if body is None else json.dumps(body).encode(),
        )
        try:
            with urllib.request.urlopen(request, timeout=30) as response:
                status, raw = response.status, response.read()
        except urllib.error.HTTPError as error:
            status, raw = error.code, error.read()
        try:
            answer = json.loads(raw) if raw else None
        except ValueError:
            answer = raw.decode(errors="replace")
        for name, path in step.get("save", {}).items():
            saved[name] = pick(answer, path)
        transcript.append({"name": step["name"], "status": status, "body": normalise(answer, known)})
    return transcript


def main():
    base, text = sys.argv[1], open(sys.argv[2]).read()
    if "--group" in sys.argv:
        text = text.replace(GROUP, sys.argv[sys.argv.index("--group") + 1])
    scenario = json.loads(text)
    transcript = play(base, scenario)
    if "--check" not in sys.argv:
        json.dump(transcript, sys.stdout, indent=1, ensure_ascii=False)
        return 0
    expected = json.load(open(sys.argv[sys.argv.index("--check") + 1]))
    wrong = 0
    for want, got in zip(expected, transcript):
        if want != got:
            wrong += 1
            print(f"differs: {want['name']}\n  expected {json.dumps(want)}\n  got      {json.dumps(got)}")
    print(f"{len(expected) - wrong} of {len(expected)} steps alike")
    return 1 if wrong or len(expected) != len(transcript) else 0


if __name__ == "__main__":
    sys.exit(main())
