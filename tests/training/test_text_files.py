"""Byte order marks, line endings, merge conflicts and Git LFS pointers in captions, train.yml and images."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from flux_training.commands.stack.file import stack_config
from flux_training.training.dataset.facts import read_caption
from flux_training.training.dataset.images import read_image
from flux_training.training.errors import BadInput
from flux_training.training.finding import Finding
from flux_training.training.jobs.declare import DeclaredJob, declare_jobs
from flux_training.training.jobs.lint import lint_jobs
from flux_training.training.text_files import (
    BYTE_ORDER_MARK,
    RETURNS_ADDED,
    RETURNS_REMOVED,
    changed_line_endings,
    describe_yaml_error,
    git_artefact,
    normalized,
    normalized_text,
)
from tests.training.lint_folders import LFS_POINTER, make_clean_job, stack

ROOT = Path(__file__).parents[2]
CONFLICT = b"<<<<<<< HEAD\na cat [trigger]\n=======\na dog [trigger]\n>>>>>>> main\n"


@pytest.mark.parametrize(
    ("raw", "plain"),
    [
        (b"a\nb\n", b"a\nb\n"),
        (b"a\r\nb\r\n", b"a\nb\n"),
        (b"a\rb", b"a\nb"),
        (b"a\r\r\nb", b"a\n\nb"),
        (BYTE_ORDER_MARK + b"a\r\n", b"a\n"),
        (b"", b""),
    ],
)
def test_line_endings_and_byte_order_marks_are_normalized(raw: bytes, plain: bytes) -> None:
    assert normalized(raw) == plain
    assert normalized_text(raw.decode()) == plain.decode()


@given(st.text().map(lambda text: normalized(text.encode())))
def test_normalized_text_stays_as_it_is_on_every_system(plain: bytes) -> None:
    if not plain.startswith(BYTE_ORDER_MARK):
        assert normalized(plain) == plain
        assert normalized(plain.replace(b"\n", b"\r\n")) == plain
        assert normalized(BYTE_ORDER_MARK + plain) == plain


@pytest.mark.parametrize(
    ("raw", "code", "line"),
    [
        (CONFLICT, "git-conflict", 1),
        (CONFLICT.replace(b"\n", b"\r\n"), "git-conflict", 1),
        (BYTE_ORDER_MARK + CONFLICT, "git-conflict", 1),
        (b"a cat\n||||||| 1a2b3c4\na dog\n", "git-conflict", 2),
        (b"a cat\n=======\n", "git-conflict", 2),
        (b"a cat\na dog\n>>>>>>> feature/dogs", "git-conflict", 3),
        (LFS_POINTER, "git-lfs", None),
        (LFS_POINTER.replace(b"\n", b"\r\n"), "git-lfs", None),
        (BYTE_ORDER_MARK + LFS_POINTER, "git-lfs", None),
        (b"/annex/objects/SHA256E-s100--abc.jpg\n", "git-lfs", None),
        (b".git/annex/objects/aB/cD/SHA256E-s1--a/SHA256E-s1--a", "git-lfs", None),
        (b"version https://hawser.github.com/spec/v1\noid sha256:00\nsize 3\n", "git-lfs", None),
    ],
)
def test_what_git_leaves_in_a_file_is_recognised(raw: bytes, code: str, line: int | None) -> None:
    found = git_artefact(raw)
    assert found is not None
    assert (found.code, found.line) == (code, line)


@pytest.mark.parametrize(
    "raw",
    [
        b"a cat <<<<<<< a dog",
        b"# ======= settings =======\n",
        b"========\n",
        b"<<<<<<<<\n",
        b"  =======\n",
        b"version https://example.org/spec/v1\n",
        b"a path like /annex/objects/ on a screen",
        b"/annex/objects/ is a folder\nof git-annex",
        b"a sign that says version https://git-lfs.github.com/spec/v1",
        b"",
    ],
)
def test_similar_text_is_left_alone(raw: bytes) -> None:
    assert git_artefact(raw) is None


@pytest.mark.parametrize(
    ("raw", "said"),
    [
        ("a: 1".encode("utf-16"), "UTF-16"),
        ("a: 1".encode("utf-16-le"), "contains NUL characters"),
        ("\ufeffa: 1".encode("utf-32-le"), "UTF-32"),
        ("\ufeffa: 1".encode("utf-32-be"), "UTF-32"),
        ("a: Köln".encode("latin-1"), "not UTF-8 (byte 4)"),
        (b"a:\n\tb: 1\n", ":2: a line begins with a tab"),
        (b"a:\n  b: 1\n\tc: 1\n", ":3: a line begins with a tab"),
        ("a:\n\u00a0\u00a0b: 1\n  c: 1\n".encode(), "a line contains U+00A0"),
        ("a: \u201cb\u201d: 1\n".encode(), ":1: a line contains U+201C"),
        (b"a: 1\n" + bytes(9), "contains NUL characters"),
        (b"a: \x07\n", "contains the control character U+0007"),
        (b"a: ]\n", ":1: not YAML (expected the node content"),
    ],
)
def test_what_editors_do_to_yaml_is_said_in_plain_words(raw: bytes, said: str, tmp_path: Path) -> None:
    job = make_clean_job(tmp_path / "jobs", "cat")
    (job / "train.yml").write_bytes(raw)
    [found] = [
        finding for finding in findings(tmp_path) if finding.code in ("config-yaml", "config-encoding")
    ]
    assert said in f":{found.line}: {found.message}"

    (tmp_path / "Pulumi.dev.yaml").write_bytes(raw)
    with pytest.raises(BadInput) as caught:
        stack_config(tmp_path, "dev")
    assert said.partition(": ")[2] in str(caught.value)


@pytest.mark.parametrize(("raw", "code"), [(CONFLICT, "git-conflict"), (LFS_POINTER, "git-lfs")])
@pytest.mark.parametrize("name", ["train.yml", "dataset/00001.txt"])
def test_a_job_with_such_a_file_is_an_error_with_the_fix(
    raw: bytes, code: str, name: str, tmp_path: Path
) -> None:
    path = make_clean_job(tmp_path / "jobs", "cat") / name
    path.write_bytes(raw)
    [found] = [finding for finding in findings(tmp_path) if finding.path == str(path)]
    assert (found.code, found.severity) == (code, "error")
    assert ("git lfs pull" if code == "git-lfs" else "delete the lines with <<<<<<<") in found.fix


def test_an_image_that_is_a_pointer_is_reported_once_with_the_fix(tmp_path: Path) -> None:
    path = make_clean_job(tmp_path / "jobs", "cat") / "dataset/00001.jpg"
    path.write_bytes(LFS_POINTER)
    [found] = findings(tmp_path)
    assert (found.code, found.path) == ("git-lfs", str(path))
    assert "run `git lfs pull`" in found.fix


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "gif"])
def test_an_image_whose_line_endings_were_changed_is_recognised(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"x.{suffix}"
    Image.effect_noise((300, 300), 60).save(path)
    raw = path.read_bytes()
    assert changed_line_endings(raw) == ""
    for changed in (raw.replace(b"\n", b"\r\n"), re.sub(rb"(?<!\r)\n", b"\r\n", raw)):
        assert changed_line_endings(changed) == RETURNS_ADDED
        path.write_bytes(changed)
        with pytest.raises(BadInput, match=r"copy it again from its source"):
            read_image(path)
    removed = raw.replace(b"\r\n", b"\n")
    assert changed_line_endings(removed) == (RETURNS_REMOVED if suffix == "png" else "")


def test_a_damaged_image_is_reported_once_with_the_fix(tmp_path: Path) -> None:
    path = make_clean_job(tmp_path / "jobs", "cat") / "dataset/00001.jpg"
    path.write_bytes(path.read_bytes().replace(b"\n", b"\r\n"))
    [found] = findings(tmp_path)
    assert (found.code, found.path) == ("git-binary", str(path))
    assert "`*.jpg binary` to .gitattributes" in found.fix
    assert found.message == f"cannot be read as an image: {RETURNS_ADDED}"


def findings(root: Path) -> list[Finding]:
    return list(lint_jobs(stack(cat={}), root).findings)


def declared(root: Path) -> DeclaredJob:
    [job] = declare_jobs(stack(cat={}), root)
    return job


@pytest.fixture
def cat(tmp_path: Path) -> Path:
    folder = make_clean_job(tmp_path / "jobs", "cat")
    (folder / "dataset/00001.txt").write_bytes(b"a tr1gger\nby the sea\n")
    return folder


def with_carriage_returns(folder: Path) -> None:
    for path in [folder / "train.yml", *folder.glob("dataset/*.txt")]:
        path.write_bytes(path.read_bytes().replace(b"\n", b"\r\n"))


def test_a_windows_checkout_and_an_editors_mark_give_the_same_run(cat: Path, tmp_path: Path) -> None:
    before = declared(tmp_path)
    with_carriage_returns(cat)
    (cat / "train.yml").write_bytes(BYTE_ORDER_MARK + (cat / "train.yml").read_bytes())
    after = declared(tmp_path)
    assert after.run_id == before.run_id
    assert (after.folder.raw_config, after.image_set.manifest) == (
        before.folder.raw_config,
        before.image_set.manifest,
    )
    assert findings(tmp_path) == []


def test_normalized_files_have_no_other_id(cat: Path, tmp_path: Path) -> None:
    assert cat.is_dir()
    assert declared(tmp_path).with_own_line_endings is None


@pytest.mark.parametrize("name", ["train.yml", "dataset/00001.txt"])
def test_the_id_of_earlier_versions_is_that_of_the_files_own_bytes(
    name: str, cat: Path, tmp_path: Path
) -> None:
    plain = declared(tmp_path)
    path = cat / name
    path.write_bytes(path.read_bytes().replace(b"\n", b"\r\n"))
    own = declared(tmp_path).with_own_line_endings
    assert own is not None
    assert own.run_id != plain.run_id
    assert own.folder.raw_config == (cat / "train.yml").read_bytes()
    assert own.image_set.captions["00001.jpg"] == read_caption(cat / "dataset/00001.txt").own_text


def test_a_caption_on_one_line_has_one_id(cat: Path, tmp_path: Path) -> None:
    """Earlier versions removed white space at the ends of a caption, and its byte order mark."""
    (cat / "dataset/00002.txt").write_bytes(BYTE_ORDER_MARK + b"a tr1gger, view 2 of it\r\n")
    assert declared(tmp_path).with_own_line_endings is None


def test_a_clone_with_autocrlf_has_the_same_bytes(tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    files = {
        "flux": b"#!/bin/sh\ntrue\n",
        "train.yml": b"job: x\n",
        "1.txt": b"a\nb\n",
        "1.jpg": b"\xff\xd8\r\n\n",
    }
    for name, raw in files.items():
        (source / name).write_bytes(raw)
    shutil.copy(ROOT / ".gitattributes", source)
    quiet = ["-c", "user.name=t", "-c", "user.email=t@example.org", "-c", "core.autocrlf=true"]
    for arguments in (["init", "-q"], ["add", "."], ["commit", "-q", "-m", "x"]):
        subprocess.run(["git", *quiet, *arguments], cwd=source, check=True)
    subprocess.run(
        ["git", "clone", "-q", "-c", "core.autocrlf=true", str(source), "clone"], cwd=tmp_path, check=True
    )
    assert {name: (tmp_path / "clone" / name).read_bytes() for name in files} == files


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a: b: c\n", "the value has a colon and a space"),
        ("a: @x\n", "begins with a character that YAML uses itself"),
        ("a: `x`\n", "begins with a character that YAML uses itself"),
        ("a: *x\n", "begins with *"),
        ('a: "b\\q"\n', "has a backslash"),
        ("a: 1\nb:2\nc: 3\n", "a key without a colon and a space"),
        ("a: 'x' y\n", "a quote is not closed"),
        ("a: [1, 2\n", "a bracket is not closed"),
        ('a: "x\n', "a quote is not closed"),
        ("a: 1\n---\nb: 2\n", "begins a second document"),
        ("a: !!python/object:os.x {}\n", "a tag such as"),
        ("? [a]\n: b\n", "a key is a list or a mapping"),
        ("a: >= 24 GB\n", "a value begins with > or |"),
        ("<<: [1]\n", "`<<:` takes mappings only"),
    ],
)
def test_what_is_wrong_with_a_yaml_file_is_said_in_plain_words(text: str, said: str) -> None:
    with pytest.raises(yaml.YAMLError) as caught:
        yaml.safe_load(text)
    assert describe_yaml_error(text, caught.value)[0].startswith("not YAML: ")
    assert said in describe_yaml_error(text, caught.value)[0]


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("a: 1\nsteps 3\nc: 2\n", 2),
        ("a: 1\nsteps:3\n# why\n\nc: 2\n", 2),
        ("a:\n  steps 3\n  c: 2\n", 2),
        ("a:\n  steps 3\n  lr 1\n  c: 2\n", 2),
        ("a:\n  # why\n  steps 3\n\n  c: 2\n", 3),
        ("a: 1\ntrain\n  steps: 3\n", 2),
        ("config\n  x:cloud: local\n", 1),
        ("config:\n  x:jobs:\n    cat {}\n    dog: {}\n", 3),
        ("a:\n- cat\n- dog\n  b: 1\n", 3),
        ('a: "x\nb: 1\n', 1),
        # Here the line itself is wrong, or the one above is the end of a longer text.
        ("a: b\n  c\n  d: 1\n", 3),
        ("a:\n- cat\nb: 1: 2\n", 3),
        ("a:\n  - |\n    text\nb: 1: 2\n", 4),
        ("a: 1\n  b: 2\n", 2),
    ],
)
def test_the_line_that_lacks_a_colon_or_a_quote_is_named(text: str, line: int) -> None:
    with pytest.raises(yaml.YAMLError) as caught:
        yaml.safe_load(text)
    assert describe_yaml_error(text, caught.value)[1] == line


@pytest.mark.parametrize(
    ("line", "end"), [("cat: {steps: 1: 2}", ": `cat: {steps: 1: 2}`"), ("saladApiKey: a: b", 'as "a: b"')]
)
def test_a_yaml_error_quotes_its_line_unless_it_may_hold_a_secret(line: str, end: str) -> None:
    text = f"config:\n  {line}\n"
    with pytest.raises(yaml.YAMLError) as caught:
        yaml.safe_load(text)
    assert describe_yaml_error(text, caught.value)[0].endswith(end)
