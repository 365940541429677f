"""A sweep changes some values of the base job's train.yml and keeps everything else."""

from pathlib import Path

import pytest

from flux_training.training.errors import BadInput
from flux_training.training.jobs.sweep import make_variants, parse_axis
from flux_training.training.train_yml.trainer_config import parse_train_yml

TEXT = (Path(__file__).parents[3] / "jobs/chelsea-cat/train.yml").read_text(encoding="utf-8")


def variants(*axes: str) -> dict[str, str]:
    """Name → train.yml."""
    made = make_variants("cat", TEXT, [parse_axis(axis) for axis in axes])
    return {variant.name: variant.text for variant in made}


def findings(*axes: str) -> list[str]:
    with pytest.raises(BadInput) as caught:
        variants(*axes)
    return caught.value.findings


def test_each_combination_has_a_readable_name() -> None:
    assert list(variants("train.lr=1e-4,2e-4", "network.linear=16,32")) == [
        "cat-lr1e-4-rank16",
        "cat-lr1e-4-rank32",
        "cat-lr2e-4-rank16",
        "cat-lr2e-4-rank32",
    ]


def test_variants_differ_only_in_the_name_and_the_set_values() -> None:
    text = variants("train.lr=2e-4", "network.linear+network.linear_alpha=32")["cat-lr2e-4-rank32"]
    lines = [pair for pair in zip(TEXT.split("\n"), text.split("\n"), strict=True) if pair[0] != pair[1]]
    assert lines == [
        ('  name: "chelsea-cat"', '  name: "cat-lr2e-4-rank32"'),
        ("        linear: 16", "        linear: 32"),
        ("        linear_alpha: 16", "        linear_alpha: 32"),
        ("        lr: 1e-4", "        lr: 2e-4"),
    ]


@pytest.mark.parametrize(
    ("axis", "path", "value"),
    [
        ("train.lr=1e-4", ("train", "lr"), 1e-4),
        ("train.lr=5E-5", ("train", "lr"), 5e-5),
        ("train.steps=1000", ("train", "steps"), 1000),
        ("train.ema_config.use_ema=false", ("train", "ema_config", "use_ema"), False),
        ("trigger_word=1e-4", ("trigger_word",), "1e-4"),
        ("trigger_word=yes", ("trigger_word",), "yes"),
        ('trigger_word="a, b"', ("trigger_word",), "a, b"),
        ("datasets.0.resolution=[512, 768]", ("datasets", 0, "resolution"), [512, 768]),
        ("config.process.0.train.lr=1e-4", ("train", "lr"), 1e-4),
    ],
)
def test_values_keep_their_type(axis: str, path: tuple[str | int, ...], value: object) -> None:
    (text,) = variants(axis).values()
    found = parse_train_yml((text).encode())["config"]["process"][0]
    for step in path:
        found = found[step]
    assert (found, type(found)) == (value, type(value))


def test_a_variant_equal_to_the_base_job_is_marked() -> None:
    made = make_variants("cat", TEXT, [parse_axis("train.lr=1e-4,2e-4")])
    assert [variant.repeats for variant in made] == [True, False]
    assert [variant.values for variant in made] == [(("train.lr", "1e-4"),), (("train.lr", "2e-4"),)]


@pytest.mark.parametrize(
    ("axis", "name"),
    [
        ("train.lr=5E-5", "cat-lr5E-5"),
        ("network.linear_alpha=8", "cat-alpha8"),
        ("train.gradient_accumulation_steps=2", "cat-gradientaccumulationsteps2"),
        ("trigger_word=Two words!", "cat-triggerwordTwo_words"),
        ("trigger_word=._-Xa-b.c-_.", "cat-triggerwordXa-b.c"),
        ("meta_Key=1", "cat-metaKey1"),
    ],
)
def test_variant_names_have_the_last_key_and_the_value(axis: str, name: str) -> None:
    text = TEXT.replace("      network:\n", "      meta_Key: 0\n      network:\n", 1)
    (variant,) = make_variants("cat", text, [parse_axis(axis)])
    assert variant.name == name


@pytest.mark.parametrize(
    ("axis", "words"),
    [
        ("train.lr=[", "--set train.lr=[: cannot be set (it is not YAML)"),
        ("train.learning_rate=1", "--set train.learning_rate: train.yml has no such value"),
        ("network.linaer=1", "(did you mean `network.linear`?)"),
        ("network.conv=4", "add the key there first"),
        ("lr=1e-4", "--set lr: train.yml has no such value (did you mean `train.lr`?)"),
        ("network.lr=1e-4", "no such value (did you mean `train.lr`?)"),
        ("rank=8", "--set rank: train.yml has no such value (did you mean `network.linear`?)"),
        ("resolution=512", "(did you mean `datasets.0.resolution`?)"),
        ("model=1", "--set model: train.yml has no such value"),
        ("train.lr=fast", "--set train.lr=fast: a text, but train.yml has a number (0.0001)"),
        ("train.steps=true", "true or false, but train.yml has a number"),
        ("train.train_unet=1", "a number, but train.yml has true or false"),
        ("datasets.0.resolution=512", "a number, but train.yml has a list"),
        ("train.lr=null", "--set train.lr=null: nothing, but train.yml has a number (0.0001)"),
        (
            "train.lr={a: 1}",
            "--set train.lr={a: 1}: something else, but train.yml has a number (0.0001)",
        ),
        # A block list is not a value on one line.
        ("datasets=1", "--set datasets: train.yml has no such value"),
        ("sample.prompts=1", "--set sample.prompts: train.yml has no such value"),
    ],
)
def test_unknown_keys_and_wrong_types_are_rejected(axis: str, words: str) -> None:
    (finding,) = findings(axis)
    assert words in finding


def test_a_key_may_be_typed_with_its_whole_place() -> None:
    assert parse_axis("config.process[0].train.lr=1").keys == ("train.lr",)
    assert parse_axis("config.process.0.train.lr=1").keys == ("train.lr",)


def test_a_key_missing_from_train_yml_is_rejected() -> None:
    with pytest.raises(BadInput) as caught:
        make_variants("cat", "config:\n  name: cat\n", [parse_axis("train.lr=1e-4")])
    (finding,) = caught.value.findings
    assert finding.startswith("--set train.lr: train.yml has no such value")


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("k=1,2", ("1", "2")),
        ("k= 1 , 2 ", ("1", "2")),
        ("k=a=b,c", ("a=b", "c")),
        ("k=[1,2],[3,4],5", ("[1,2]", "[3,4]", "5")),
        ("k=[[1,2],[3]],4", ("[[1,2],[3]]", "4")),
        ("k={a: 1, b: 2},3", ("{a: 1, b: 2}", "3")),
        ("k='a,b',c", ("'a,b'", "c")),
        ('k="a,b",c', ('"a,b"', "c")),
        ("""k="it's, so",c""", ('"it\'s, so"', "c")),
        ("k='[',b", ("'['", "b")),
        ("k=X,Y,XX", ("X", "Y", "XX")),
    ],
)
def test_axis_values_are_split_at_top_level_commas(text: str, values: tuple[str, ...]) -> None:
    assert parse_axis(text).values == values


def test_all_duplicate_values_are_named() -> None:
    with pytest.raises(BadInput, match=r"^--set train.lr=2,1,2,1: 1, 2 is given twice; remove one$"):
        parse_axis("train.lr=2,1,2,1")


def test_all_errors_are_reported_together() -> None:
    assert len(findings("train.lrr=1", "network.linear=a,b", "train.steps=2", "train.steps=3")) == 4


@pytest.mark.parametrize("text", ["train.lr", "train.lr=", "=1", "train.lr=1,,2", "a+=1", "train.lr=1,2,1"])
def test_malformed_axes_are_rejected(text: str) -> None:
    with pytest.raises(BadInput, match=r"--set"):
        parse_axis(text)


@pytest.mark.parametrize(
    ("axis", "same"),
    [
        ("train.lr=1e-4,2e-4,0.0001", "1e-4, 0.0001"),
        ("network.linear=16,0x10", "16, 0x10"),
        ("datasets.0.resolution=[512,768],[512, 768]", "[512,768], [512, 768]"),
        ("trigger_word=a,'a'", "a, 'a'"),
        ("network.linear+network.linear_alpha=8,8.0", "8, 8.0"),
    ],
)
def test_equal_values_in_different_spellings_are_rejected(axis: str, same: str) -> None:
    (finding,) = findings(axis)
    assert finding == f"--set {axis.partition('=')[0]}: {same} are the same value; keep one"


def test_texts_that_look_like_equal_numbers_are_different_values() -> None:
    assert len(variants("trigger_word=1e-4,0.0001")) == 2


def test_duplicate_and_long_variant_names_are_rejected() -> None:
    assert "two jobs of this sweep have this name" in findings("trigger_word=a b,a_b")[0]
    assert "at most 63" in findings("trigger_word=" + "x" * 60)[0]
