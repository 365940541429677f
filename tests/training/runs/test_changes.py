"""What changed between two runs, in words."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flux_training.training.dataset.manifest import Image, manifest_json
from flux_training.training.runs.changes import Changes, Edited, Inputs, find_changes
from flux_training.training.runs.run import run_id
from flux_training.training.train_yml.diff import show_value

CONFIG = b"job: extension\nconfig: {process: [{network: {linear: 16}, train: {lr: 1e-4, steps: 2000}}]}\n"


def made_of(images: dict[str, tuple[str, str]], raw_config: bytes = CONFIG, attempt: int = 1) -> Inputs:
    """`images`: name → (content, caption)."""
    entries = {name: Image(name, len(content), content) for name, (content, _) in images.items()}
    return Inputs(
        manifest_json(entries, {name: caption for name, (_, caption) in images.items()}), raw_config, attempt
    )


BEFORE = {"1.jpg": ("a", "one"), "2.jpg": ("b", "two"), "3.jpg": ("c", "three")}


@pytest.mark.parametrize(
    ("after", "reasons"),
    [
        (BEFORE, ()),
        (BEFORE | {"4.jpg": ("d", "four")}, ("1 image added",)),
        ({"1.jpg": ("a", "one")}, ("2 images removed",)),
        (BEFORE | {"2.jpg": ("z", "two")}, ("1 image replaced",)),
        (BEFORE | {"1.jpg": ("a", "uno"), "2.jpg": ("b", "due")}, ("2 captions changed",)),
        (BEFORE | {f"{n}.jpg": (str(n), "") for n in range(4, 1006)}, ("1,002 images added",)),
        ({"9.jpg": ("a", "one"), "2.jpg": ("b", "two"), "3.jpg": ("c", "three")}, ("1 image renamed",)),
    ],
)
def test_images_and_captions_are_counted(after: dict[str, tuple[str, str]], reasons: tuple[str, ...]) -> None:
    assert find_changes(made_of(BEFORE), made_of(after)).reasons == reasons


@pytest.mark.parametrize(
    ("old", "new", "reasons"),
    [
        (b"lr: 1e-4", b"lr: 2e-4", ("learning rate 1e-4 → 2e-4",)),
        (b"steps: 2000", b"steps: 3000", ("steps 2000 → 3000",)),
        (b"linear: 16", b"linear: 32", ("rank 16 → 32",)),
        (b"steps: 2000", b"steps: 2000, batch_size: 2", ("batch size 2 (was not set)",)),
        (b"lr: 1e-4, ", b"", ("learning rate no longer set (was 1e-4)",)),
        (b"job: extension\n", b"job: extension  # mine\n", ("train.yml differs only in comments or layout",)),
        (b"steps: 2000", b"steps: 2000, hf_token: abc", ("train.hf_token changed",)),
        (b"lr: 1e-4", b"lr: 1e-4, note: " + b"x" * 60, ("train.note changed",)),
        (b"lr: 1e-4", b"lr: 1e-4, note: " + b"x" * 40, (f"train.note {'x' * 40} (was not set)",)),
        (b"job: extension", b"job: " + b"y" * 40, (f"job extension → {'y' * 40}",)),
        (b"lr: 1e-4", b"lr: 1e-4, note: " + b"x" * 41, ("train.note changed",)),
        (b"lr: 1e-4", b"lr: 1e-4, a.KEY: x", ("train.a.KEY changed",)),
        (b"lr: 1e-4", b"lr: 1e-4, keyed: {of: x}", ("train.keyed.of x (was not set)",)),
        # The values look equal but have different types.
        (b"steps: 2000", b"steps: '2000'", ("steps changed",)),
        (b"steps: 2000", b"steps: 1, batch_size: 2", ("batch size 2 (was not set)", "steps 2000 → 1")),
        (b"lr: 1e-4", b"lr: 1e-4, list: [1, [2, 3]]", ("train.list 1, 2, 3 (was not set)",)),
        (
            b"lr: 1e-4",
            b"lr: 1e-4, list: [{a: 1}, 2]",
            ("train.list.0.a 1 (was not set)", "train.list.1 2 (was not set)"),
        ),
        (b"{linear: 16}", b"{linear: 16, linear_alpha: 8}", ("alpha 8 (was not set)",)),
        (b"job: extension", b"job: other", ("job extension → other",)),
    ],
)
def test_changed_settings_have_readable_names(old: bytes, new: bytes, reasons: tuple[str, ...]) -> None:
    found = find_changes(made_of(BEFORE), made_of(BEFORE, CONFIG.replace(old, new)))
    assert found.reasons == reasons


def test_attempt_and_parent_are_reasons() -> None:
    first, resumed = made_of(BEFORE), Inputs(made_of(BEFORE).manifest, CONFIG, 2, "abc")
    assert find_changes(first, resumed).reasons == ("attempt 1 → 2", "continues from run abc")
    assert find_changes(resumed, first).reasons == ("attempt 2 → 1", "starts from scratch")


def test_values_of_forty_characters_are_shown() -> None:
    before = made_of(BEFORE, CONFIG.replace(b"job: extension", b"job: " + b"y" * 40))
    assert find_changes(before, made_of(BEFORE)).reasons == (f"job {'y' * 40} → extension",)


def test_added_removed_replaced_and_renamed_images_are_listed() -> None:
    after = {"b.jpg": ("b", "two"), "3.jpg": ("z", "three"), "n2.jpg": ("n2", ""), "n1.jpg": ("n1", "")}
    found = find_changes(made_of(BEFORE | {"4.jpg": ("d", "four")}), made_of(after))
    assert found == Changes(
        added=("n1.jpg", "n2.jpg"),
        removed=("1.jpg", "4.jpg"),
        replaced=("3.jpg",),
        renamed=(("2.jpg", "b.jpg"),),
    )
    assert found.reasons == ("2 images added", "2 images removed", "1 image replaced", "1 image renamed")


def test_a_manifest_without_captions_has_empty_ones() -> None:
    bare = Inputs(b'{"images": {"1.jpg": {"sha256": "a"}, "2.jpg": {}}}', CONFIG, 1)
    captioned = Inputs(b'{"images": {"1.jpg": {"sha256": "a", "caption": "x"}, "2.jpg": {}}}', CONFIG, 1)
    assert find_changes(bare, captioned).captions == (Edited("1.jpg", "", "x"),)
    assert find_changes(captioned, bare).captions == (Edited("1.jpg", "x", ""),)


@pytest.mark.parametrize(
    "raw", [b"", b"[]", b"[" * 100_000, b'{"images": 3}', b'{"images": {"a": 3}}', b"\xff"]
)
def test_an_invalid_manifest_counts_as_empty(raw: bytes) -> None:
    assert find_changes(Inputs(raw, CONFIG, 1), made_of({"1.jpg": ("a", "one")})).settings == ()


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.0001, "1e-4"),
        (0.00025, "2.5e-4"),
        (0.99, "0.99"),
        (2.0, "2"),
        (True, "true"),
        (None, "null"),
        ([512, 768], "512, 768"),
        ("adamw8bit", "adamw8bit"),
        (1e9, "1e9"),
        (0.001, "0.001"),
        (0.000999, "9.99e-4"),
        (0.00012345678, "1.234568e-4"),
        (-0.0002, "-2e-4"),
        (100.0, "100"),
        (1.50, "1.5"),
        (1234567.0, "1.23457e6"),
        (0.1 + 0.2, "0.3"),
        (False, "false"),
        ([], ""),
        (0.0, "0"),
    ],
)
def test_values_are_formatted_for_reading(value: object, text: str) -> None:
    assert show_value(value) == text


contents = st.dictionaries(
    st.sampled_from(["1.jpg", "2.jpg", "3.jpg"]),
    st.tuples(st.sampled_from("abc"), st.sampled_from("xy")),
    min_size=1,
)
inputs = st.builds(
    made_of, contents, st.sampled_from([CONFIG, CONFIG + b"# \n", b"job: 1\nconfig: {}\n"]), st.integers(1, 2)
)


@given(inputs, inputs)
def test_reasons_exist_exactly_when_the_run_id_changes(before: Inputs, after: Inputs) -> None:
    ids = [run_id(one.manifest, one.raw_config, one.attempt) for one in (before, after)]
    found = find_changes(before, after)
    assert bool(found.reasons) == (ids[0] != ids[1])
    assert (found == Changes()) == (ids[0] == ids[1])
