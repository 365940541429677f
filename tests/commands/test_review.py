"""The review page: saving, access control, and accessibility in a browser."""

import http.client
import json
import os
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
import yaml

from flux_training.commands.design.private_server import HEADERS
from flux_training.commands.jobs.review import CaptionService, ReviewServer
from flux_training.commands.jobs.set_aside import set_image_aside
from flux_training.training.errors import FluxError
from tests.support.browser import NEEDS_CHROMIUM, THEMES, BrowserPage, page_in_chromium
from tests.support.photos import photo
from tests.training.job_folders import TRAIN_YML

HOSTILE = 'a <b>cat</b> & "dog" </textarea><script>document.title = "taken over"</script>'
ODD = "a b#1%?.jpg"


def answer_of_a_model(image: Path) -> str:
    """In place of a captioning service."""
    if image.name != "00001.jpg":
        raise FluxError("the model is busy")
    return "from the model ohwx"


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ReviewServer]:
    monkeypatch.chdir(tmp_path)
    dataset = tmp_path / "my-job/dataset"
    dataset.mkdir(parents=True)
    for number, name in enumerate(("00001.jpg", "00002.jpg", ODD, "ü.png"), 1):
        photo(number).save(dataset / name)
    (dataset / "00001.txt").write_text("first ohwx\n", encoding="utf-8")
    (dataset / ODD).with_suffix(".txt").write_text(HOSTILE, encoding="utf-8")
    (tmp_path / "secret.txt").write_text("secret", encoding="utf-8")
    with ReviewServer(dataset, "ohwx", CaptionService("a model at example.com", answer_of_a_model)) as made:
        thread = threading.Thread(target=made.serve_forever, args=(0.02,), daemon=True)
        thread.start()
        yield made
        made.shutdown()


def ask(
    server: ReviewServer,
    method: str,
    path: str,
    body: object = None,
    headers: Mapping[str, str] | None = None,
) -> tuple[int, str, Mapping[str, str]]:
    """A request as the page itself sends it, unless `headers` say otherwise."""
    own = {"Host": f"127.0.0.1:{server.server_port}"}
    if method == "PUT":
        own |= {"Origin": f"http://127.0.0.1:{server.server_port}", "Content-Type": "application/json"}
    sent = {name: value for name, value in (own | dict(headers or {})).items() if value}
    connection = http.client.HTTPConnection("127.0.0.1", server.server_port, timeout=10)
    connection.putrequest(method, path, skip_host=True)
    raw = b"" if body is None else body if isinstance(body, bytes) else json.dumps(body).encode()
    for name, value in sent.items():
        connection.putheader(name, value)
    connection.putheader("Content-Length", str(len(raw)))
    connection.endheaders(raw)
    answer = connection.getresponse()
    text = answer.read().decode(errors="replace")
    connection.close()
    return answer.status, text, dict(answer.getheaders())


def send(server: ReviewServer, path: str, body: object = None, **headers: str) -> tuple[int, str]:
    return ask(server, "PUT", f"/{server.token}/{path}", body, headers)[:2]


def put(server: ReviewServer, before: str, caption: str, **headers: str) -> tuple[int, str]:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    body = {"before": before, "caption": caption}
    return ask(server, "PUT", f"/{server.token}/caption/00001.jpg", body, named)[:2]


def caption_of(server: ReviewServer) -> str:
    return (server.dataset / "00001.txt").read_text(encoding="utf-8")


def test_a_caption_is_saved(server: ReviewServer) -> None:
    assert put(server, "first ohwx", "  better ohwx \n") == (204, "")
    assert caption_of(server) == "better ohwx\n"
    assert server.changed == {"00001.jpg"}


def test_saving_the_same_caption_changes_nothing(server: ReviewServer) -> None:
    assert put(server, "older", "first ohwx") == (204, "")
    assert server.changed == set()


def test_a_file_that_was_changed_meanwhile_is_not_overwritten(server: ReviewServer) -> None:
    (server.dataset / "00001.txt").write_text("by an editor", encoding="utf-8")
    assert put(server, "first ohwx", "mine") == (409, '{"caption": "by an editor"}')
    assert caption_of(server) == "by an editor"


def test_an_unreadable_caption_is_reported_and_kept(server: ReviewServer) -> None:
    caption = server.dataset / "00001.txt"
    caption.write_bytes("für ohwx".encode("latin-1"))
    status, text = put(server, "", "mine ohwx")
    assert (status, "00001.txt: not UTF-8" in json.loads(text)["fault"]) == (409, True)
    assert caption.read_bytes() == "für ohwx".encode("latin-1")
    assert 'readonly data-fault="00001.txt: not UTF-8' in ask(server, "GET", f"/{server.token}/")[1]


def test_an_empty_caption_can_be_filled(server: ReviewServer) -> None:
    (server.dataset / "00001.txt").write_text(" \n", encoding="utf-8")
    assert put(server, "", "mine ohwx") == (204, "")
    assert caption_of(server) == "mine ohwx\n"


def test_an_image_with_a_name_that_is_not_utf_8_can_be_captioned(server: ReviewServer) -> None:
    image = server.dataset / os.fsdecode(b"\xff.jpg")
    photo(9).save(image)
    status, text, _ = ask(server, "GET", f"/{server.token}/")
    assert (status, 'src="image/%FF.jpg"' in text, 'data-image="%FF.jpg"' in text) == (200, True, True)
    assert ask(server, "GET", f"/{server.token}/image/%FF.jpg")[0] == 200
    change = {"before": "", "caption": "mine ohwx"}
    assert ask(server, "PUT", f"/{server.token}/caption/%FF.jpg", change)[0] == 204
    assert image.with_suffix(".txt").read_text(encoding="utf-8") == "mine ohwx\n"


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Host": "evil.example:80"}, 403),
        ({"Host": "127.0.0.1"}, 403),
        ({"Origin": "http://evil.example"}, 403),
        ({"Origin": "null"}, 403),
        ({"Origin": ""}, 403),
        ({"Content_Type": "text/plain"}, 415),
    ],
)
def test_another_page_cannot_write(server: ReviewServer, headers: dict[str, str], status: int) -> None:
    assert put(server, "first ohwx", "theirs", **headers)[0] == status
    assert caption_of(server) == "first ohwx\n"


def test_another_name_for_this_address_cannot_read(server: ReviewServer) -> None:
    status, text, _ = ask(server, "GET", f"/{server.token}/", headers={"Host": "evil.example"})
    assert (status, "first" in text) == (403, False)


@pytest.mark.parametrize(
    "path",
    [
        "/",
        "/x/",
        "/TOKEN",
        "/TOKEN/image/nothing.jpg",
        "/TOKEN/image/../../secret.txt",
        "/TOKEN/image/..%2f..%2fsecret.txt",
        "/TOKEN/image//etc/passwd",
        "/TOKEN/../review.py",
        "/TOKEN/image/00001.txt",
        "/TOKEN/review.html",
    ],
)
def test_only_the_page_and_the_images_can_be_read(server: ReviewServer, path: str) -> None:
    status, text, headers = ask(server, "GET", path.replace("TOKEN", server.token))
    assert status == 404
    assert "secret" not in text
    assert headers["Content-Security-Policy"] == HEADERS["Content-Security-Policy"]


@pytest.mark.parametrize("path", ["caption/00001.jpg", "aside/00001.jpg", "again/00001.jpg"])
@pytest.mark.parametrize(
    "headers",
    [{"Host": "evil.example"}, {"Origin": "http://evil.example"}, {"Origin": ""}, {"Origin": "null"}],
)
def test_no_action_is_open_to_another_site(server: ReviewServer, path: str, headers: dict[str, str]) -> None:
    body = {"before": "first ohwx", "caption": "theirs", "aside": True}
    status, text = send(server, path, body, **headers)
    assert (status, "from the model" in text) == (403, False)
    assert caption_of(server) == "first ohwx\n"


@pytest.mark.parametrize("path", ["", "findings", "image/00001.jpg", "aside/00001.jpg", "review_all.js"])
def test_no_address_can_be_read_by_dns_rebinding(server: ReviewServer, path: str) -> None:
    set_image_aside(server.dataset / "00001.jpg")
    for headers in ({"Host": "evil.example"}, {"Origin": "http://evil.example"}):
        assert ask(server, "GET", f"/{server.token}/{path}", headers=headers)[0] == 403


def test_an_image_is_set_aside_with_its_files_and_put_back(server: ReviewServer) -> None:
    job = server.dataset.parent
    config = yaml.safe_load(TRAIN_YML.format(name="my-job", steps=20, save_every=10))
    config["config"]["process"][0]["datasets"][0]["control_path"] = "control"
    (job / "train.yml").write_text(yaml.safe_dump(config), encoding="utf-8")
    (job / "control").mkdir()
    photo(5).save(job / "control/00001.png")
    moved = ["dataset/00001.jpg", "dataset/00001.txt", "control/00001.png"]
    before = {path: (job / path).read_bytes() for path in moved}
    assert send(server, "aside/00001.jpg", {"aside": True}) == (204, "")
    assert [(job / path).exists() for path in moved] == [False] * 3
    assert {path: (job / "set-aside" / path).read_bytes() for path in moved} == before
    page = ask(server, "GET", f"/{server.token}/")[1]
    assert ('src="aside/00001.jpg"' in page, 'data-image="00001.jpg"' in page) == (True, True)
    assert ask(server, "GET", f"/{server.token}/aside/00001.jpg")[0] == 200
    assert send(server, "aside/00001.jpg", {"aside": False}) == (204, "")
    assert {path: (job / path).read_bytes() for path in moved} == before


def test_nothing_is_overwritten_by_setting_aside(server: ReviewServer) -> None:
    in_the_way = server.dataset.parent / "set-aside/dataset/00001.txt"
    in_the_way.parent.mkdir(parents=True)
    in_the_way.write_text("kept", encoding="utf-8")
    status, text = send(server, "aside/00001.jpg", {"aside": True})
    assert (status, "00001.txt: exists and is not overwritten" in text) == (409, True)
    assert (caption_of(server), in_the_way.read_text(encoding="utf-8")) == ("first ohwx\n", "kept")
    photo(1).save(in_the_way.with_suffix(".jpg"))
    for is_aside in (True, False):
        assert send(server, "aside/00001.jpg", {"aside": is_aside})[0] == 409
    assert send(server, "aside/00002.jpg", {"aside": False})[0] == 404
    assert send(server, "aside/00002.jpg", {"aside": 1})[0] == 400


def test_nothing_is_set_aside_outside_the_project(server: ReviewServer, tmp_path: Path) -> None:
    (tmp_path / "project").mkdir()
    (tmp_path / "my-job").rename(tmp_path / "project/my-job")
    (tmp_path / "project/Pulumi.yaml").touch()
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "project/my-job/set-aside").symlink_to(tmp_path / "elsewhere")
    server.dataset = tmp_path / "project/my-job/dataset"
    status, text = send(server, "aside/00001.jpg", {"aside": True})
    assert (status, "leads out of the project" in text) == (409, True)
    assert list((tmp_path / "elsewhere").iterdir()) == []


def test_an_image_is_captioned_again_on_request(server: ReviewServer) -> None:
    """The page saves the caption, after it has compared the file."""
    assert send(server, "again/00001.jpg", {}) == (200, '{"caption": "from the model ohwx"}')
    assert send(server, "again/00002.jpg", {}) == (502, "the model is busy\n")
    assert caption_of(server) == "first ohwx\n"


def test_findings_are_listed_by_image(server: ReviewServer) -> None:
    (server.dataset / "00002.txt").write_text("x", encoding="utf-8")
    found = json.loads(ask(server, "GET", f"/{server.token}/findings")[1])
    assert "caption-missing" in [one["code"] for one in found["%C3%BC.png"]]
    assert all(one["message"] for own in found.values() for one in own)


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b"{", 400),
        (b"[]", 400),
        ({"caption": "x"}, 400),
        ({"before": "first ohwx", "caption": " \n"}, 400),
        (b"x" * 70_000, 413),
    ],
)
def test_an_invalid_request_is_refused(server: ReviewServer, body: object, status: int) -> None:
    assert ask(server, "PUT", f"/{server.token}/caption/00001.jpg", body)[0] == status
    assert caption_of(server) == "first ohwx\n"


def test_every_answer_has_the_security_headers(server: ReviewServer) -> None:
    for path in ("", "review.js", "review.css", "icon.svg", "image/00001.jpg", "nothing"):
        _, _, headers = ask(server, "GET", f"/{server.token}/{path}")
        assert HEADERS.items() <= headers.items(), path


def test_captions_are_escaped(server: ReviewServer) -> None:
    _, text, _ = ask(server, "GET", f"/{server.token}/")
    assert "<b>cat" not in text
    assert "&lt;/textarea&gt;&lt;script&gt;" in text


@NEEDS_CHROMIUM
@pytest.mark.parametrize(("dark", "phone"), THEMES)
def test_the_page_is_accessible_and_has_no_errors(server: ReviewServer, dark: bool, phone: bool) -> None:
    with page_in_chromium(server.address, dark, phone) as seen:
        assert seen.accessibility_violations() == []
        assert not seen.overflows()
        assert seen.page.title() == "my-job: captions"
        loaded = "[...document.images].every(image => image.complete && image.naturalWidth > 0)"
        seen.page.evaluate(
            "document.images.forEach?.call; [...document.images].forEach(i => i.loading = 'eager')"
        )
        seen.page.wait_for_function(loaded)
    assert seen.console_errors == []
    assert seen.hosts == {f"127.0.0.1:{server.server_port}"}


def expect_state(seen: BrowserPage, number: int, words: str) -> None:
    """Wait for this text below a caption. The page's Content-Security-Policy forbids playwright's other ways to wait."""
    from playwright.sync_api import expect

    expect(seen.page.locator(f"#state-{number}")).to_contain_text(words)


@NEEDS_CHROMIUM
def test_captions_can_be_corrected_with_the_keyboard_alone(server: ReviewServer) -> None:
    from playwright.sync_api import expect

    with page_in_chromium(server.address) as seen:
        page = seen.page
        first = page.locator("#caption-1")
        first.focus()
        page.keyboard.press("ControlOrMeta+a")
        page.keyboard.type("typed ohwx")
        expect_state(seen, 1, "not saved yet")
        page.keyboard.press("Control+Enter")
        expect(page.locator("#caption-2")).to_be_focused()
        expect_state(seen, 1, "saved")
        assert caption_of(server) == "typed ohwx\n"
        page.keyboard.type("second, without the word")
        page.keyboard.press("Alt+ArrowUp")
        expect_state(seen, 2, "saved")
        assert page.locator("#missing").inner_text() == "1"
        page.keyboard.type("xx")
        page.keyboard.press("Escape")
        assert first.input_value() == "typed ohwx"
        page.get_by_label("without the trigger word").check()
        assert page.locator(".card:visible").count() == 3
        page.get_by_label("without a caption").check()
        assert page.locator(".card:visible").count() == 1
    assert seen.console_errors == []


@NEEDS_CHROMIUM
def test_all_captions_can_be_changed_and_changes_undone(server: ReviewServer) -> None:
    from playwright.sync_api import expect

    (server.dataset / "00002.txt").write_text("a cat and a cat\n", encoding="utf-8")
    with page_in_chromium(server.address) as seen:
        page, done, undo = seen.page, seen.page.locator("#done"), seen.page.get_by_role("button", name="Undo")
        page.get_by_text("Change all captions shown").click()
        page.get_by_label("Search").fill("cat")
        page.get_by_label("Replace by").fill("$& dog")
        page.get_by_role("button", name="Replace").click()
        expect(done).to_have_text("“cat” replaced by “$& dog” in 2 captions")
        assert (server.dataset / "00002.txt").read_text() == "a $& dog and a $& dog\n"
        undo.click()
        expect(done).to_contain_text("Undone")
        assert (server.dataset / "00002.txt").read_text() == "a cat and a cat\n"
        assert (server.dataset / ODD).with_suffix(".txt").read_text() == HOSTILE + "\n"
        page.get_by_role("button", name="Insert it").click()
        expect(done).to_have_text("Trigger word inserted in 2 captions")
        assert (server.dataset / "00002.txt").read_text() == "a cat and a cat ohwx\n"
        assert caption_of(server) == "first ohwx\n"
        page.locator("#caption-2").fill("mine")
        undo.click()
        expect(done).to_have_text("Undone, but for 1 caption that you have changed since")
        assert page.locator("#caption-2").input_value() == "mine"
        page.get_by_label("Search").fill("first ohwx")
        page.get_by_label("Replace by").fill("")
        page.get_by_role("button", name="Replace").click()
        expect(done).to_contain_text("1 caption left alone, because nothing would remain")
        expect(undo).to_be_disabled()
    assert seen.console_errors == []


@NEEDS_CHROMIUM
def test_images_are_set_aside_captioned_again_and_filtered_by_finding(server: ReviewServer) -> None:
    from playwright.sync_api import expect

    with page_in_chromium(server.address) as seen:
        page, card, done = seen.page, seen.page.locator(".card:visible"), seen.page.locator("#done")
        page.get_by_label("Finding").select_option("caption-missing")
        expect(card).to_have_count(2)
        expect(card.first.locator(".found")).to_contain_text("no caption")
        page.get_by_label("Finding").select_option("")
        expect(card).to_have_count(4)
        again = page.get_by_role("button", name="Caption again")
        again.first.click()
        expect_state(seen, 1, "saved")
        assert caption_of(server) == "from the model ohwx\n"
        again.nth(1).click()
        expect_state(seen, 2, "no caption: the model is busy")
        page.get_by_role("button", name="Undo").click()
        expect(done).to_have_text("Undone: An image was captioned again")
        assert caption_of(server) == "first ohwx\n"
        page.get_by_role("button", name="Set aside").first.focus()
        page.keyboard.press("Enter")
        expect(card).to_have_count(3)
        expect(page.locator("#caption-2")).to_be_focused()
        assert page.locator("#count").inner_text() == "3"
        assert card.locator(".place").all_inner_texts() == ["1 of 3", "2 of 3", "3 of 3"]
        assert seen.accessibility_violations() == []
        page.reload()
        expect(card).to_have_count(3)
        page.get_by_role("button", name="Put back").click()
        expect(card).to_have_count(4)
        page.get_by_role("button", name="Set aside").nth(1).click()
        expect(page.get_by_role("button", name="Put back")).to_be_visible()
        page.get_by_role("button", name="Undo").click()
        expect(page.get_by_role("button", name="Put back")).to_be_hidden()
        expect(card).to_have_count(4)
        expect(card.locator(".place").last).to_have_text("4 of 4")
        assert (server.dataset / "00002.jpg").exists()
    # The refused caption of the second image.
    assert [error for error in seen.console_errors if "502" not in error] == []


@NEEDS_CHROMIUM
def test_the_page_reports_an_unreadable_caption(server: ReviewServer) -> None:
    (server.dataset / "00001.txt").write_bytes(b"\xff")
    with page_in_chromium(server.address) as seen:
        expect_state(seen, 1, "not UTF-8")
        assert not seen.page.locator("#caption-1").is_editable()
        assert seen.page.locator("#missing").inner_text() == "2"
        seen.page.locator("#caption-2").fill("mine ohwx")
        seen.page.locator("#caption-2").blur()
        expect_state(seen, 2, "saved")
        assert seen.page.locator("#missing").inner_text() == "1"


@NEEDS_CHROMIUM
def test_the_page_reports_changes_by_others_and_the_end_of_the_review(
    server: ReviewServer,
) -> None:
    with page_in_chromium(server.address) as seen:
        (server.dataset / "00001.txt").write_text("by an editor", encoding="utf-8")
        field = seen.page.locator("#caption-1")
        field.fill("mine")
        field.blur()
        expect_state(seen, 1, "by an editor")
        assert caption_of(server) == "by an editor"
        field.focus()
        field.blur()
        expect_state(seen, 1, "saved")
        assert caption_of(server) == "mine\n"
        seen.page.context.set_offline(True)
        field.fill("too late")
        field.blur()
        expect_state(seen, 1, "has ended")
