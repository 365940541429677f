"""HTTP failures become typed errors: every form of answer, and no secret in any text."""

import json
import pickle
import re

import httpx
import pytest
from pydantic import SecretStr

from flux_training.clients import errors
from flux_training.clients.errors import Service, to_error
from flux_training.clients.s3_errors import refused
from flux_training.training.errors import BadInput, FluxError

SECRET = "canary-6f1d9e"
SERVICE = Service("Kelpie", "http://kelpie.test:81/k", "check the key", "is it up?", (SecretStr(SECRET),))
REQUEST = httpx.Request(
    "POST", f"http://kelpie.test:81/k/jobs?signature={SECRET}", headers={"Salad-Api-Key": SECRET}
)


def error_for(
    status: int,
    body: object = "",
    *,
    repeatable: bool = True,
    transient: errors.TemporaryRefusal | None = None,
) -> FluxError:
    text = body if isinstance(body, str) else json.dumps(body)
    answer = httpx.Response(status, text=text, request=REQUEST)
    return to_error(SERVICE, REQUEST, answer, repeatable=repeatable, transient=transient)


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (302, errors.ServiceError),
        (400, errors.Invalid),
        (401, errors.Unauthorized),
        (403, errors.Unauthorized),
        (404, errors.NotFound),
        (409, errors.Conflict),
        (412, errors.Conflict),
        (422, errors.Invalid),
        (429, errors.RateLimited),
        (500, errors.Unavailable),
        (503, errors.Unavailable),
    ],
)
def test_each_status_has_its_error(status: int, kind: type[errors.ServiceError]) -> None:
    error = error_for(status)
    assert type(error) is kind
    assert isinstance(error, FluxError)
    assert error.status == status
    assert str(status) in str(error)
    assert "kelpie.test:81" in str(error)


@pytest.mark.parametrize(
    ("body", "words"),
    [
        # Both of Kelpie's shapes, from kelpie-transcript.json.
        ({"error": "Not Found", "message": "Job not found"}, "Not Found: Job not found"),
        (
            {
                "errors": [{"code": "invalid_type", "message": "Required", "path": ["body", "command"]}],
                "result": {},
                "success": False,
            },
            "body.command: Required",
        ),
        ({"error": "Route Not Found"}, "Route Not Found"),
        # SaladCloud: ProblemDetails, with and without the fields' errors.
        ({"title": "Not Found", "status": 404, "detail": "No such group."}, "Not Found: No such group."),
        (
            {"title": "Validation", "errors": {"name": ["too long", "bad"], "cpu": "low"}},
            "Validation; name: too long, bad; cpu: low",
        ),
        ("<!DOCTYPE html><html><head><title> 502 Bad\nGateway</title></head>", "titled “502 Bad Gateway”"),
        ("<html><body>oops", "a web page"),
        ("upstream connect error", "upstream connect error"),
        ('["odd"]', '["odd"]'),
        ({"errors": ["plain", {"message": "no path"}]}, "plain; no path"),
    ],
)
def test_the_message_of_the_service_is_shown(body: object, words: str) -> None:
    assert words in str(error_for(400, body))


def test_a_taken_name_is_a_conflict_whatever_the_status() -> None:
    unique = {
        "error": "Internal server error",
        "message": "D1_ERROR: UNIQUE constraint failed: ScalingRules.x",
    }
    assert type(error_for(500, unique)) is errors.Conflict
    assert type(error_for(500, unique, repeatable=False)) is errors.Conflict
    assert type(error_for(400, {"title": "name_conflict"})) is errors.Conflict


def test_a_post_that_may_have_worked_is_uncertain() -> None:
    assert type(error_for(502, repeatable=False)) is errors.UncertainOutcome
    lost = httpx.ReadTimeout("timed out")
    assert type(to_error(SERVICE, REQUEST, lost, repeatable=False)) is errors.UncertainOutcome
    assert type(to_error(SERVICE, REQUEST, lost, repeatable=True)) is errors.Unavailable
    refused = httpx.ConnectError("Connection refused")
    assert type(to_error(SERVICE, REQUEST, refused, repeatable=False)) is errors.Unavailable


def test_a_transient_answer_names_what_may_be_wrong() -> None:
    error = error_for(403, "Invalid Project", repeatable=False, transient=errors.TemporaryRefusal.UNCLEAR)
    assert type(error) is errors.Unavailable
    assert "check the key" in str(error)


@pytest.mark.parametrize("status", [400, 401, 403, 404, 409, 429, 500, 503])
@pytest.mark.parametrize("repeatable", [True, False])
def test_no_secret_is_in_any_text(status: int, repeatable: bool) -> None:
    echo = {"error": f"key {SECRET}", "errors": [{"path": [SECRET], "message": SECRET}]}
    error = error_for(status, echo, repeatable=repeatable)
    lost = to_error(SERVICE, REQUEST, httpx.ReadError(f"at ?signature={SECRET}"), repeatable=repeatable)
    for text in (str(error), repr(error), str(lost), repr(lost), repr(SERVICE)):
        assert SECRET not in text
    assert "***" in str(error)


def test_long_answers_are_cut() -> None:
    assert len(str(error_for(400, "x" * 5000))) < 600


def test_an_error_shows_what_value_rule_and_next_step() -> None:
    error = FluxError("the rank is odd", "it must be even", "set 16", value=7)
    assert str(error) == "the rank is odd (7); it must be even; set 16"
    assert repr(error) == "FluxError('the rank is odd', 'it must be even', 'set 16', 7)"
    assert str(pickle.loads(pickle.dumps(error))) == str(error)  # noqa: S301 - our own bytes


def test_bad_input_shows_all_findings() -> None:
    error = BadInput(["one is wrong", "two is wrong"])
    assert str(error) == "one is wrong\ntwo is wrong"
    assert pickle.loads(pickle.dumps(error)).findings == error.findings  # noqa: S301 - our own bytes


def test_a_signature_refused_because_of_the_clock_says_so() -> None:
    answer = {
        "Error": {"Code": "RequestTimeTooSkewed", "Message": "The difference is too large."},
        "ResponseMetadata": {"HTTPStatusCode": 403},
    }
    error = refused(
        Service("S3", "https://s3.example", "check the keys", ""), "flux", "PutObject", "a", answer
    )
    assert re.search(r"this machine's clock says \d{4}-\d\d-\d\d \d\d:\d\d UTC; set the clock", str(error))
    assert "check the keys" not in str(error)


def test_an_objects_name_cannot_change_the_terminal() -> None:
    service = Service("object storage", "http://s3.example", if_refused="", if_down="")
    answer = {"Error": {"Code": "AccessDenied"}, "ResponseMetadata": {"HTTPStatusCode": 403}}
    said = str(refused(service, "b", "get_object", "runs/\x1b[2J\nerror: all is well", answer))
    assert "get_object b/runs/?[2J error: all is well at s3.example" in said
