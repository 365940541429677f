"""Proxy variables that cannot be used are named, and never matter on this machine."""

import pytest
from pydantic import SecretStr

from flux_training.clients.captioning.captioner import Captioner
from flux_training.clients.connection import connect
from flux_training.clients.errors import Service
from flux_training.clients.http import Http
from flux_training.clients.proxies import proxy_findings
from flux_training.clients.reachability import probe_services, require_network
from flux_training.commands.doctor.result import run_check
from flux_training.commands.doctor.services import check_proxies
from flux_training.training.errors import BadInput
from tests.clients.test_captions import KEY, captioner_for

KEYS = {
    "SALAD_API_KEY": "k" * 30,
    "SALAD_ORGANIZATION": "o",
    "SALAD_PROJECT": "p",
    "FLUX_S3_ACCESS_KEY_ID": "a" * 20,
    "FLUX_S3_SECRET_ACCESS_KEY": "s" * 40,
    "FLUX_NODE_ACCESS_KEY_ID": "b" * 20,
    "FLUX_NODE_SECRET_ACCESS_KEY": "t" * 40,
    "FLUX_S3_REGION": "auto",
    "FLUX_S3_ENDPOINT_URL": "https://storage.example",
}
VARIABLES = ("ALL_PROXY", "all_proxy", "HTTPS_PROXY", "http_proxy")


@pytest.mark.parametrize("name", VARIABLES)
@pytest.mark.parametrize(
    "value", ["socks5://me:secret@127.0.0.1:9", "socks5h://h:1", "socks4://h:1", "SOCKS://h:1"]
)
def test_socks_is_refused_by_name_without_its_password(name: str, value: str) -> None:
    [finding] = proxy_findings({name: value})
    assert finding.startswith(f"{name} is a SOCKS proxy")
    assert "unset it" in finding
    assert "secret" not in finding


@pytest.mark.parametrize(
    "value", ["ftp://h:1", "http://", "http://h:port", "http://[::1", "://", "http://h:99999"]
)
def test_a_proxy_that_is_no_address_is_named(value: str) -> None:
    [finding] = proxy_findings({"HTTPS_PROXY": value})
    assert "correct it or unset it" in finding


@pytest.mark.parametrize(
    "value", ["http://proxy:3128", "proxy:3128", "https://u:p@proxy:443", "proxy", "", " "]
)
def test_http_proxies_are_used(value: str) -> None:
    assert proxy_findings(dict.fromkeys(VARIABLES, value)) == []


@pytest.mark.parametrize("name", VARIABLES)
def test_the_clients_refuse_socks_without_a_traceback(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, "socks5://127.0.0.1:9")
    with pytest.raises(BadInput, match=f"{name} is a SOCKS proxy"):
        Http(Service("a service", "https://service.example", "", ""), {})
    with pytest.raises(BadInput, match=f"{name} is a SOCKS proxy"):
        captioner_for("https://captions.example/v1", SecretStr(KEY))
    # This machine is reached without a proxy.
    Http(Service("a service", "http://127.0.0.1:9", "", ""), {})
    assert isinstance(captioner_for("http://127.0.0.1:9/v1", SecretStr(KEY)), Captioner)


@pytest.mark.parametrize("hosts", ["fe11::/16", "localhost,[::1]", "fd07:b51a:cc66:f0::/64"])
def test_a_no_proxy_that_cannot_be_read_is_named(hosts: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """encode/httpx#3221, basicmachines-co/basic-memory#1541, orbstack/orbstack#2456"""
    monkeypatch.setenv("NO_PROXY", hosts)
    monkeypatch.setenv("no_proxy", hosts)
    with pytest.raises(BadInput, match="correct no_proxy and NO_PROXY"):
        Http(Service("a service", "https://service.example", "", ""), {})
    Http(Service("a service", "http://127.0.0.1:9", "", ""), {})


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("ALL_PROXY", "socks5://127.0.0.1:9", "ALL_PROXY is a SOCKS proxy"),
        ("NO_PROXY", "[::1]", "correct no_proxy and NO_PROXY"),
    ],
)
def test_doctor_and_plan_name_an_unusable_proxy_once(
    name: str, value: str, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for variable in (*VARIABLES, "no_proxy"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv(name, value)
    monkeypatch.setenv(name.lower(), value)
    there = "https://service.example"
    connection = connect("salad", {}, KEYS, "s3", "prod")
    [result] = run_check("Proxy", lambda: check_proxies([there]))[:1]
    assert (result.verdict, words in result.message) == ("bad", True)
    with pytest.raises(BadInput, match=words):
        probe_services({"a service": there, "another": there})
    with pytest.raises(BadInput, match=words):
        require_network(connection)
    # On this machine no proxy matters.
    assert run_check("Proxy", lambda: check_proxies(["http://127.0.0.1:9"])) == []
    assert probe_services({"a service": "http://127.0.0.1:1"})["a service"].problem
