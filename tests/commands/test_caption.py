"""`flux caption` against a server that limits, fails, refuses and cuts off answers: nothing is lost, overwritten or requested twice."""

import errno
import shutil
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from localcloud.testing import wait_until
from PIL import Image

from flux_training.clients.captioning.captioner import Captioner, CaptioningRefused
from flux_training.commands.jobs import review
from flux_training.commands.jobs.caption import caption
from flux_training.commands.jobs.review import CaptionService
from flux_training.training.dataset.captions import EDIT_INSTRUCTION, MOTION_INSTRUCTION, ModelResponse
from flux_training.training.errors import BadInput, FluxError
from flux_training.training.models.table import MODELS
from flux_training.training.train_yml.edit import new_train_yml
from tests.support.flux import environment, line_of, make_checkout, with_code
from tests.support.model_answers import AROUND_A_CAPTION, CAT, NO_CAPTION
from tests.support.openai_server import CaptionServer, captioner, make_images

KEY = "sk-a-key-that-nobody-may-see"
IMAGES = 200
MINE = range(1, 11)
FAILING = {11: "refuse", 12: "cut", 13: "filter", 14: "empty", 15: "sorry", 16: "400"}
Run = Callable[..., str]


def plan(number: int, attempt: int) -> str:
    """Some images never get a caption; every seventh first gets status 429, every eleventh status 500."""
    if number in FAILING:
        return FAILING[number]
    return "429" if number % 7 == 0 and attempt == 1 else "500" if number % 11 == 0 and attempt == 1 else "ok"


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A job `squares` of 200 images, ten of them with a caption, in the working directory."""
    root = make_checkout(tmp_path / "checkout")
    job = root / "jobs/squares"
    make_images(job / "dataset", IMAGES)
    (job / "train.yml").write_text(new_train_yml("squares", "ohwx"), encoding="utf-8")
    for number in MINE:
        (job / f"dataset/{number:05}.txt").write_text(f"mine {number}", encoding="utf-8")
    monkeypatch.chdir(root)
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    return root


@pytest.fixture
def run(checkout: Path, capsys: pytest.CaptureFixture[str]) -> Run:  # noqa: ARG001 - it is where it runs
    def call(*arguments: str) -> str:
        caption.main(["squares", *arguments], standalone_mode=False)
        return capsys.readouterr().out

    return call


def options(server: CaptionServer) -> list[str]:
    return ["--base-url", server.url, "--per-minute", "100000", "--concurrency", "32"]


def captions(checkout: Path) -> dict[int, str]:
    files = (checkout / "jobs/squares/dataset").glob("*.txt")
    return {int(file.stem): file.read_text(encoding="utf-8") for file in files}


def test_every_image_gets_a_caption_or_is_reported_and_no_answer_is_lost_by_ctrl_c(
    checkout: Path,
) -> None:
    with_code(checkout)
    env = environment(OPENAI_API_KEY=KEY)
    with captioner(plan, delay=0.05) as server:
        line = line_of(["caption", "squares", *options(server), "--concurrency", "8"])
        first = subprocess.Popen(
            line, cwd=checkout, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        wait_until(lambda: sum(server.captioned.values()) >= 40)
        first.send_signal(signal.SIGINT)
        printed, _ = first.communicate(timeout=60)
        assert first.returncode == 130, printed
        assert "Waiting for the answers to requests already sent" in printed
        assert "run the same command to continue" in printed
        # Every answer was saved.
        answered = {number for number, count in server.captioned.items() if count}
        assert captions(checkout).keys() == answered | set(MINE)
        assert len(answered) < IMAGES - len(MINE) - len(FAILING)

        second = subprocess.run(
            line, cwd=checkout, env=env, capture_output=True, text=True, check=False, timeout=120
        )
    assert second.returncode == 1, second.stderr
    assert f"{len(FAILING)} of " in second.stderr
    for number in FAILING:
        assert f"\n  {number:05}.jpg: " in second.stdout
    assert server.captioned == {
        number: 1 for number in range(1, IMAGES + 1) if number not in {*MINE, *FAILING}
    }
    assert captions(checkout) == {number: f"mine {number}" for number in MINE} | {
        number: f"A square, number {number}. [trigger]\n" for number in server.captioned
    }
    assert not any(number in server.asked for number in MINE)
    assert KEY not in printed + second.stdout + second.stderr
    assert [file.name for file in (checkout / "jobs/squares/dataset").iterdir() if file.name[0] == "."] == []


def test_the_cost_is_printed_before_and_after(run: Run) -> None:
    with captioner() as server:
        printed = run(*options(server), "--price", "1000,2000")
    # 190 answers of 100 tokens in and 10 out.
    assert "190 images without a caption" in printed
    assert "about $" in printed
    assert "190 captions written; 19,000 tokens in, 1,900 out: $22.80" in printed


def test_the_next_command_asks_the_same_server(checkout: Path, run: Run) -> None:
    keep_images(checkout, 11)
    shutil.copy(checkout / "Pulumi.dev.yaml", checkout / "Pulumi.prod.yaml")
    with captioner() as server:
        printed = run(
            *options(server),
            "--model",
            "llava",
            "--price",
            "0.1,0.4",
            "--prompt",
            "What is it?",
            "--stack=prod",
        )
    assert (
        f"Next: `./flux caption squares --review --model llava --base-url {server.url} --prompt 'What is it?' "
        "--per-minute 100000 --price 0.1,0.4 --stack prod` shows images"
    ) in printed


def test_the_advice_for_failed_images_names_the_same_server(checkout: Path, run: Run) -> None:
    keep_images(checkout, 11)
    with captioner(lambda _number, _attempt: "sorry") as server, pytest.raises(FluxError) as caught:
        run(*options(server), "--trigger-position", "none")
    review = f"`./flux caption squares --review --base-url {server.url} --trigger-position none --per-minute"
    assert review in str(caught.value)


def caption_again_in_review(
    run: Run, checkout: Path, monkeypatch: pytest.MonkeyPatch, *arguments: str
) -> str:
    """What the review page shows if its model gives no caption."""
    services: list[CaptionService] = []
    monkeypatch.setattr(review, "serve", lambda _dataset, _trigger, service: services.append(service))
    run("--review", *arguments)
    with pytest.raises(FluxError) as caught:
        services[0].caption(checkout / "jobs/squares/dataset/00011.jpg")
    return str(caught.value)


def test_the_review_page_says_how_to_set_the_key(
    checkout: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("OPENAI_API_KEY")
    assert caption_again_in_review(run, checkout, monkeypatch, "--model", "gpt-4.1-mini") == (
        "OPENAI_API_KEY is not set; OpenAI needs a key; end this review with Ctrl-C in its terminal, set the key there with "
        "`read -rs OPENAI_API_KEY && export OPENAI_API_KEY`, and start it again with `./flux caption squares --review "
        "--model gpt-4.1-mini`; or name another server: `./flux caption squares --review --base-url URL --model MODEL`"
    )


def test_the_review_page_says_how_to_change_an_option(
    checkout: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    with captioner(lambda _number, _attempt: "401") as server:
        said = caption_again_in_review(run, checkout, monkeypatch, "--base-url", server.url)
    assert said.endswith(
        "to change an option, end this review with Ctrl-C in its terminal, and start it again with that option: "
        f"`./flux caption squares --review --base-url {server.url}`"
    )


def test_a_password_is_not_in_the_next_command(
    checkout: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    keep_images(checkout, 11)
    monkeypatch.setattr(Captioner, "ask", lambda *_, **__: ModelResponse("A red square on white."))
    printed = run("--base-url", "http://me:password@127.0.0.1:9/v1")
    assert "--base-url http://USER:PASSWORD@127.0.0.1:9/v1" in printed
    assert "password" not in printed


def test_a_dry_run_sends_nothing_and_needs_no_key(
    checkout: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("OPENAI_API_KEY")
    printed = run("--dry-run")
    assert "190 images without a caption" in printed
    assert "about $0.0" in printed
    assert len(captions(checkout)) == len(MINE)


def test_the_cost_of_an_unknown_model_is_unknown(run: Run) -> None:
    printed = run("--dry-run", "--model", "llava")
    assert "llava at api.openai.com: unknown cost (give the price with --price 0.10,0.40)" in printed


def test_the_cost_of_an_unknown_model_with_a_price_is_known_after_the_answers(run: Run) -> None:
    printed = run("--dry-run", "--model", "llava", "--price", "0.1,0.4")
    assert (
        "llava at api.openai.com: $0.10 and $0.40 for a million tokens in and out; "
        "the tokens that llava needs for an image are not known before it has answered"
    ) in printed
    assert "--price" not in printed


def test_concurrency_limits_parallel_requests(run: Run) -> None:
    with captioner(delay=0.02) as server:
        run(*options(server), "--concurrency", "3")
    assert server.max_at_once == 3


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["--trigger-position", "start"], "[trigger] A square, number 11."),
        (["--trigger-position", "none"], "A square, number 11."),
        (["--trigger", "ohwx"], "A square, number 11. ohwx"),
    ],
)
def test_the_trigger_word_goes_to_the_chosen_position(
    checkout: Path, run: Run, arguments: list[str], text: str
) -> None:
    keep_images(checkout, 11)
    with captioner() as server:
        run(*options(server), *arguments)
    assert captions(checkout)[11] == text + "\n"


def keep_images(checkout: Path, *numbers: int) -> None:
    for file in (checkout / "jobs/squares/dataset").iterdir():
        if int(file.stem) not in numbers:
            file.unlink()


def test_a_wrong_key_stops_the_command_at_once(checkout: Path, run: Run) -> None:
    with captioner(lambda _number, _attempt: "401") as server:
        with pytest.raises(FluxError, match="check the key") as caught:
            run(*options(server), "--concurrency", "2")
        assert sum(server.asked.values()) <= 4
    assert KEY not in str(caught.value)
    assert len(captions(checkout)) == len(MINE)


def test_the_placeholder_needs_a_trigger_word_in_train_yml(checkout: Path, run: Run) -> None:
    config = checkout / "jobs/squares/train.yml"
    config.write_text(
        config.read_text(encoding="utf-8").replace("trigger_word:", "# trigger_word:"), encoding="utf-8"
    )
    with pytest.raises(BadInput, match="has no trigger_word"):
        run("--dry-run")
    assert "190 images" in run("--dry-run", "--trigger", "ohwx")


def test_a_caption_written_meanwhile_is_kept(checkout: Path, run: Run) -> None:
    keep_images(checkout, 11)
    file = checkout / "jobs/squares/dataset/00011.txt"

    def someone_writes(_number: int, _attempt: int) -> str:
        file.write_text("by hand", encoding="utf-8")
        return "ok"

    with captioner(someone_writes) as server, pytest.raises(FluxError, match="1 of 1 images got no caption"):
        run(*options(server))
    assert file.read_text(encoding="utf-8") == "by hand"


def test_an_empty_caption_file_is_replaced(checkout: Path, run: Run) -> None:
    keep_images(checkout, 11)
    (checkout / "jobs/squares/dataset/00011.txt").write_text(" \n", encoding="utf-8")
    with captioner() as server:
        run(*options(server))
    assert captions(checkout)[11] == "A square, number 11. [trigger]\n"


def test_a_broken_image_is_reported_and_not_sent(
    checkout: Path, run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    keep_images(checkout, 11, 12)
    image = checkout / "jobs/squares/dataset/00012.jpg"
    image.write_bytes(image.read_bytes()[:200])
    with captioner() as server, pytest.raises(FluxError, match="1 of 2 images"):
        run(*options(server))
    assert "\n  00012.jpg: a broken image" in capsys.readouterr().out
    assert set(server.asked) == {11}


def test_images_with_the_same_problem_are_one_line_and_named_once(
    checkout: Path, run: Run, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    keep_images(checkout, 11, 12)

    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied", "it.jpg")

    monkeypatch.setattr(Image, "open", refuse)
    with captioner() as server, pytest.raises(FluxError, match="2 of 2 images"):
        run(*options(server))
    (line,) = [line for line in capsys.readouterr().out.splitlines() if "Permission denied" in line]
    assert line.startswith(
        "  00011.jpg, 00012.jpg: cannot be read (Permission denied); make it a readable file"
    )
    assert line.count(".jpg") == 2
    assert server.asked == {}


def test_images_are_reduced_before_they_are_sent(checkout: Path, run: Run) -> None:
    keep_images(checkout, 100)
    with captioner() as server:
        run(*options(server), "--max-side", "82")
    # The server tells images apart by their width: 64 + 100 is sent as 82 = 64 + 18.
    assert set(server.asked) == {18}


def test_videos_are_left_to_the_user(checkout: Path, run: Run) -> None:
    keep_images(checkout, *MINE)
    (checkout / "jobs/squares/dataset/turn.mp4").write_bytes(b"x")
    assert "1 video without a caption; only images are sent: write turn.txt yourself" in run()


def test_nothing_is_done_if_every_image_has_a_caption(checkout: Path, run: Run) -> None:
    keep_images(checkout, *MINE)
    assert "every image has a caption" in run()


def test_spaces_around_the_address_are_ignored(checkout: Path, run: Run) -> None:
    keep_images(checkout, 11)
    with captioner() as server:
        run(*options(server), "--base-url", f" {server.url}\n")
    assert 11 in captions(checkout)


def test_a_password_in_the_address_is_not_printed(run: Run) -> None:
    printed = run("--dry-run", "--base-url", "https://me:password@models.example/v1")
    assert ("at models.example:" in printed, "password" in printed) == (True, False)


def test_a_password_in_an_unencrypted_address_is_not_printed(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, run: Run
) -> None:
    def refuse(*_: object) -> None:
        raise CaptioningRefused("not now")

    # A real connection attempt would take a minute to fail.
    monkeypatch.setattr(Captioner, "ask", refuse)
    with pytest.raises(CaptioningRefused):
        run("--base-url", "http://me:password@models.example:9/v1")
    printed = capsys.readouterr().out
    assert ("http to models.example:9 is not encrypted" in printed, "password" in printed) == (True, False)


def test_an_invalid_address_is_refused(run: Run) -> None:
    with pytest.raises(BadInput, match="--base-url"):
        run("--dry-run", "--base-url", "http://[bad")


def hostile(number: int, _attempt: int) -> str:
    """The kinds of answers take turns; what holds a caption holds the image's own."""
    kinds = list(AROUND_A_CAPTION) + list(NO_CAPTION)
    kind = kinds[number % len(kinds)]
    answer = AROUND_A_CAPTION.get(kind, NO_CAPTION.get(kind, ""))
    return "say " + answer.replace(CAT, f"{CAT[:-1]}, number {number}.")


@pytest.mark.parametrize("images", [pytest.param(300, marks=pytest.mark.long), 150])
def test_a_hostile_server_neither_adds_nor_loses_a_caption(
    images: int, checkout: Path, run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    dataset = checkout / "jobs/squares/dataset"
    keep_images(checkout)
    make_images(dataset, images)
    with (
        captioner(hostile) as server,
        pytest.raises(FluxError, match=f"of {images} images got no caption"),
    ):
        run(*options(server), "--trigger-position", "none")
    kinds = list(AROUND_A_CAPTION) + list(NO_CAPTION)
    good = [number for number in range(1, images + 1) if kinds[number % len(kinds)] in AROUND_A_CAPTION]
    found = {number: text.strip() for number, text in captions(checkout).items()}
    assert found.keys() == set(good)
    assert all(text in (CAT, f"{CAT[:-1]}, number {number}.") for number, text in found.items())
    printed = capsys.readouterr().out
    assert "Removed from around captions: " in printed
    assert "the model says that it sees no image" in printed


@pytest.mark.parametrize("kind", ["no image, upload", "no image, text model"])
def test_a_model_that_cannot_see_is_found_out_before_the_whole_folder_is_sent(
    kind: str, checkout: Path, run: Run
) -> None:
    with (
        captioner(lambda _number, _attempt: "say " + NO_CAPTION[kind]) as server,
        pytest.raises(FluxError, match="sees no image") as caught,
    ):
        run(*options(server))
    assert "choose a model that reads images" in str(caught.value)
    assert len(server.asked) == 3
    assert captions(checkout).keys() == set(MINE)


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        ("say the\ufffdlo the \ufffd cat", "the answer is noise"),
        ("500", "the server failed"),
    ],
)
def test_a_model_that_cannot_work_is_found_out_before_the_whole_folder_is_sent(
    answer: str, words: str, checkout: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Captioner, "_sleep", lambda _self, _seconds: None)
    with (
        captioner(lambda _number, _attempt: answer) as server,
        pytest.raises(FluxError, match=f"has not captioned any of the first 3 images: {words}"),
    ):
        run(*options(server))
    assert len(server.asked) == 3
    assert captions(checkout).keys() == set(MINE)


@pytest.mark.parametrize("first", ["say 1. A cat.\n2. A dog.", "refuse"])
def test_an_answer_that_is_no_caption_is_asked_for_again_more_strictly(
    first: str, checkout: Path, run: Run
) -> None:
    keep_images(checkout, 11)
    with captioner(lambda _n, attempt: "ok" if attempt == 2 else first) as server:
        run(*options(server), "--trigger-position", "none")
    assert captions(checkout)[11] == "A square, number 11.\n"
    assert [len(prompt) for prompt in server.prompts] == sorted(len(prompt) for prompt in server.prompts)
    assert "caption alone" in server.prompts[-1]


@pytest.mark.parametrize(
    ("first", "second", "caption"),
    [
        ("Рыжий кот смотрит вверх.", "ok", "A square, number 11."),
        ("一只橘猫抬头看天空。", "sorry", "一只橘猫抬头看天空。"),
        (
            "Un gato mira el cielo de la tarde.",
            "say Un gato y el cielo de la tarde.",
            "Un gato y el cielo de la tarde.",
        ),
    ],
)
def test_a_caption_in_another_language_is_asked_for_once_more_in_english(
    first: str, second: str, caption: str, checkout: Path, run: Run
) -> None:
    keep_images(checkout, 11)
    with captioner(lambda _n, attempt: second if attempt == 2 else f"say {first}") as server:
        run(*options(server), "--trigger-position", "none")
    assert captions(checkout)[11] == f"{caption}\n"
    assert ["in English" in prompt for prompt in server.prompts] == [False, True]


def test_a_prompt_of_ones_own_may_ask_for_another_language(checkout: Path, run: Run) -> None:
    keep_images(checkout, 11)
    with captioner(lambda _number, _attempt: "say Рыжий кот смотрит вверх.") as server:
        run(*options(server), "--prompt", "Опиши картинку одним предложением")
    assert captions(checkout)[11].startswith("Рыжий кот смотрит вверх.")
    assert len(server.prompts) == 1


@pytest.mark.parametrize(
    ("answer", "asked"), [(CAT, 6), ("Es liegt nichts vor.", 3), ('{"reply": "Quiet as ever"}', 3)]
)
def test_the_same_answer_for_the_first_images_is_not_written(
    answer: str, asked: int, checkout: Path, run: Run
) -> None:
    with (
        captioner(lambda _number, _attempt: f"say {answer}") as server,
        pytest.raises(FluxError, match=f"first {asked} images: the model says the same of different images"),
    ):
        run(*options(server))
    assert len(server.asked) == asked
    assert captions(checkout).keys() == set(MINE)


def test_no_other_image_is_sent_if_the_first_answers_describe_nothing(checkout: Path, run: Run) -> None:
    with (
        captioner(lambda _number, _attempt: "say Nothing to report today.") as server,
        pytest.raises(FluxError, match="first 3 images: the answer does not describe an image"),
    ):
        run(*options(server))
    assert captions(checkout).keys() == set(MINE)


def test_photos_of_one_moment_may_have_the_same_caption(checkout: Path, run: Run) -> None:
    keep_images(checkout, 11, 12, 13, 14, 15)
    with captioner(lambda _number, _attempt: f"say {CAT}") as server:
        printed = run(*options(server), "--trigger-position", "none")
    assert f"the same of all 5 images. See whether it describes them: {CAT}" in printed
    assert {captions(checkout)[number] for number in range(11, 16)} == {f"{CAT}\n"}


def test_a_prompt_of_ones_own_may_ask_for_the_same_caption(checkout: Path, run: Run) -> None:
    with captioner(lambda _number, _attempt: f"say {CAT}") as server:
        run(*options(server), "--prompt", "Say what animal this is")
    assert captions(checkout).keys() == set(range(1, IMAGES + 1))


def test_captions_of_an_edit_model_are_instructions_and_the_control_image_is_sent(
    checkout: Path, run: Run
) -> None:
    job = checkout / "jobs/squares"
    text = new_train_yml("squares", "ohwx", model=MODELS["flux1-kontext"], controls=1)
    (job / "train.yml").write_text(text, encoding="utf-8")
    (job / "control").mkdir()
    Image.new("RGB", (400, 64)).save(job / "control/00011.png")
    with captioner() as server:
        run(*options(server))
    assert set(server.prompts) == {EDIT_INSTRUCTION}
    # The server takes the width for the number: image 11 is 75 pixels wide.
    assert server.captioned[75 + 400 - 64] == 1
    assert server.captioned[11] == 0


def test_captions_of_a_video_model_describe_motion(checkout: Path, run: Run) -> None:
    text = new_train_yml("squares", "ohwx", model=MODELS["wan21-1b"])
    (checkout / "jobs/squares/train.yml").write_text(text, encoding="utf-8")
    with captioner() as server:
        run(*options(server))
    assert set(server.prompts) == {MOTION_INSTRUCTION}


def test_a_prompt_of_ones_own_is_used_for_any_model(checkout: Path, run: Run) -> None:
    text = new_train_yml("squares", "ohwx", model=MODELS["wan21-1b"])
    (checkout / "jobs/squares/train.yml").write_text(text, encoding="utf-8")
    with captioner() as server:
        run(*options(server), "--prompt", "What is it?")
    assert set(server.prompts) == {"What is it?"}


def test_other_folders_that_are_trained_are_named_and_left_alone(checkout: Path, run: Run) -> None:
    config = checkout / "jobs/squares/train.yml"
    dataset = '        - folder_path: "dataset"\n'
    text = new_train_yml("squares", "ohwx")
    assert dataset in text
    config.write_text(
        text.replace(dataset, f"        - folder_path: dataset-faces/\n{dataset}"), encoding="utf-8"
    )
    (image,) = make_images(checkout / "jobs/squares/dataset-faces", 1)
    with captioner() as server:
        assert "Not looked at: dataset-faces/, which train.yml trains on as well" in run(*options(server))
    assert not image.with_suffix(".txt").exists()
