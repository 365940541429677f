"""Random job folders: bytes, names, YAML and images. Each must be valid or reported, never a traceback.

python -m tests.training.lint.fuzz_folders --seeds 20000
"""

import argparse
import io
import json
import os
import random
import shutil
import sys
import tempfile
import traceback
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import yaml
from PIL import Image

from flux_training.training.errors import BadInput
from flux_training.training.finding import LintReport
from flux_training.training.jobs.declare import declare_jobs
from flux_training.training.jobs.examine import Examiner
from flux_training.training.jobs.lint import lint_jobs
from flux_training.training.lint.rules import NEEDED
from tests.training.lint_folders import TRAIN_YML, picture, stack

Files = dict[bytes, bytes]
NAMES = [
    b"a b.jpg",
    b"\xff\xfe.jpg",
    b"caf\xc3\xa9.png",
    b"con.jpg",
    b"a\nb.webp",
    b"\xe2\x80\xae.jpg",
    b".jpg",
    b"x" * 240 + b".jpg",
    b"..jpg",
    b"a\\b.jpg",
    b"00001.JPG",
    b"00001.png",
    b"-rf.jpg",
    b"$(x).jpg",
    b"a.jpg.txt",
    b"~.webp",
    b"%2e.jpg",
    b"\x01.txt",
]
CAPTIONS = [
    b"",
    b" \n",
    b"\xff\xfe\x00",
    b"[trigger]",
    b"tr1gger",
    b"\x00\x01",
    b"\xef\xbb\xbftr1gger",
    b"x" * 5000,
    b"hf_" + b"a" * 40,
    "\u202e tr1gger".encode(),
    b"word " * 900,
    "\U0001f600".encode(),
    b"I'm sorry, but I can't",
    b"a\rb\r\nc",
]
VALUES: list[Any] = [
    None,
    True,
    False,
    0,
    -1,
    1,
    1e308,
    float("nan"),
    float("inf"),
    "",
    "x",
    "[name]",
    "[trigger]",
    [],
    {},
    [[]],
    [{}],
    [None],
    {"a": {}},
    "1e-4",
    10**40,
    "${HOME}",
    "${AWS_SECRET_ACCESS_KEY}",
    "\ud7ff",
    "\x07",
    "a" * 3000,
    ["x"] * 50,
    [1, "2", None],
    "-5",
    3.7,
]
YAML = [
    b"",
    b"%",
    b"- a",
    b"&a [*a]",
    b"!!python/object:os.system x",
    b"a: &a [x,x]\nb: &b [*a,*a]",
    b"[" * 3000,
    b"{" * 500,
    b"\t",
    b"job: 1\nconfig: 2",
    b"? [a]\n: b",
    b"job: x\nconfig: {name: job, process: [{}]}",
    b"--- a\n--- b",
    b"<<: x",
    b"0: 1\n0: 2",
    b"a: 0x" + b"f" * 6000,
    b"\x00",
    b"=: 1",
    b"a: 2024-13-41",
    b"a: !!binary x",
    b"a: !!timestamp x",
    b"a: !!set {x}",
    b"a: !!omap [x]",
    b"job: x\nconfig: {name: [1], process: {}}",
    b"a: .nan",
]


def bomb() -> bytes:
    """Aliases that expand to a billion values."""
    lines = ["job: extension", "config: {name: job}", "a0: &a0 [x, x]"]
    lines += [f"a{n}: &a{n} [*a{n - 1}, *a{n - 1}]" for n in range(1, 30)]
    return "\n".join(lines).encode()


def encoded(image: Image.Image, kind: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def sound_files() -> Files:
    files: Files = {b"train.yml": TRAIN_YML.format(name="job").encode()}
    for number, kind in enumerate(("JPEG", "PNG", "WEBP"), 1):
        suffix = b"jpg" if kind == "JPEG" else kind.lower().encode()
        files[b"dataset/%05d.%s" % (number, suffix)] = encoded(picture(number, 48), kind)
        files[b"dataset/%05d.txt" % number] = b"a photo of tr1gger %d\n" % number
    return files


def odd_images() -> list[bytes]:
    first = picture(7, 40)
    found = [
        encoded(first.convert(mode), kind)
        for mode, kind in (("CMYK", "JPEG"), ("L", "PNG"), ("P", "PNG"), ("1", "PNG"), ("LA", "PNG"))
    ]
    found += [
        encoded(first.convert("P"), "GIF", save_all=True, append_images=[picture(8, 40).convert("P")]),
        encoded(first, "BMP"),
    ]
    found += [
        encoded(first, "TIFF"),
        encoded(first, "ICO"),
        encoded(first, "PPM"),
        encoded(first, "EPS"),
        encoded(Image.new("RGBA", (3, 2)), "WEBP"),
    ]
    found += [
        encoded(first.convert("L").convert("I;16"), "PNG"),
        encoded(Image.new("L", (1, 1)), "PNG"),
        encoded(first, "PDF"),
        b"%!PS-Adobe-3.0 EPSF-3.0\n",
    ]
    return [*found, encoded(first, "WEBP", save_all=True, append_images=[picture(9, 40)])]


BASE = sound_files()
ODD_IMAGES = odd_images()


def mutate_bytes(chance: random.Random, raw: bytes) -> bytes:
    data = bytearray(raw)
    for _ in range(chance.choice((1, 1, 2, 8, 64))):
        at = chance.randrange(len(data) + 1)
        what = chance.randrange(5)
        if what == 0 and data:
            data[at % len(data)] ^= 1 << chance.randrange(8)
        elif what == 1:
            del data[at:]
        elif what == 2:
            del data[at : at + chance.randrange(1, 40)]
        elif what == 3:
            data[at:at] = chance.randbytes(chance.randrange(1, 20))
        elif data:
            data[at % len(data)] = chance.choice((0, 255, 10, 58, 123))
    return bytes(data)


def any_file(chance: random.Random, files: Files, *suffixes: bytes) -> bytes:
    return chance.choice(sorted(name for name in files if name.endswith(suffixes)) or [b"dataset/none.txt"])


def spoil_image(chance: random.Random, files: Files) -> None:
    name = any_file(chance, files, b"jpg", b"png", b"webp")
    files[name] = (
        chance.choice(ODD_IMAGES) if chance.random() < 0.3 else mutate_bytes(chance, files.get(name, b""))
    )


def spoil_caption(chance: random.Random, files: Files) -> None:
    name = any_file(chance, files, b"txt")
    files[name] = (
        chance.choice(CAPTIONS) if chance.random() < 0.6 else mutate_bytes(chance, files.get(name, b""))
    )


def spoil_name(chance: random.Random, files: Files) -> None:
    name = any_file(chance, files, b"jpg", b"png", b"webp", b"txt")
    new = (
        chance.choice(NAMES)
        if chance.random() < 0.7
        else mutate_bytes(chance, name[8:]).replace(b"/", b"_").replace(b"\0", b"_")
    )
    if 0 < len(new) < 250 and new not in (b".", b"..") and name in files:
        files[b"dataset/" + new] = files.pop(name)
        if chance.random() < 0.5:
            files[b"dataset/" + new.rpartition(b".")[0][:240] + b".txt"] = b"a photo of tr1gger, renamed"


def spoil_yaml_bytes(chance: random.Random, files: Files) -> None:
    files[b"train.yml"] = mutate_bytes(chance, files.get(b"train.yml", b""))


def spoil_yaml_whole(chance: random.Random, files: Files) -> None:
    files[b"train.yml"] = chance.choice([*YAML, bomb()])


def spoil_yaml_value(chance: random.Random, files: Files) -> None:
    """Replaces, removes or adds values at random places of the document."""
    try:
        document = yaml.safe_load(files.get(b"train.yml", b""))
    except (yaml.YAMLError, ValueError, RecursionError, AttributeError):
        return
    for _ in range(chance.choice((1, 1, 2, 5))):
        at = document
        for _ in range(chance.randrange(1, 6)):
            below = list(at.values()) if isinstance(at, dict) else at if isinstance(at, list) else []
            deeper = [child for child in below if isinstance(child, dict | list) and child]
            if not deeper:
                break
            at = chance.choice(deeper)
        if isinstance(at, dict) and at:
            key = chance.choice([*at, "stray", 7, None])
            at.pop(key, None) if chance.random() < 0.2 else at.update({key: chance.choice(VALUES)})
        elif isinstance(at, list):
            at.insert(0, chance.choice(VALUES))
    try:
        text = yaml.safe_dump(document, allow_unicode=chance.random() < 0.5)
    except ValueError:  # Python does not convert numbers with so many digits
        return
    files[b"train.yml"] = text.encode("utf-8", "surrogatepass")


def spoil_presence(chance: random.Random, files: Files) -> None:
    files.pop(chance.choice(sorted(files)), None)
    if chance.random() < 0.3:
        files[
            chance.choice(
                [b"train.yaml", b"dataset/more/x.jpg", b"dataset/Thumbs.db", b"notes.txt", b"dataset/.hidden"]
            )
        ] = b"x"


SPOILERS: list[Callable[[random.Random, Files], None]] = [
    spoil_image,
    spoil_caption,
    spoil_name,
    spoil_yaml_bytes,
    spoil_yaml_whole,
    spoil_yaml_value,
    spoil_yaml_value,
    spoil_presence,
]


def write_files(folder: Path, files: Files, chance: random.Random) -> None:
    folder.mkdir(parents=True)
    (folder / "dataset").mkdir()
    for name, raw in files.items():
        path = os.path.join(os.fsencode(folder), name)  # noqa: PTH118 - the name is bytes
        try:
            os.makedirs(os.path.dirname(path), exist_ok=True)  # noqa: PTH103, PTH120 - as above
            with open(path, "wb") as file:  # noqa: PTH123 - as above
                file.write(raw)
        except OSError:
            continue
    if chance.random() < 0.02:
        os.mkfifo(folder / "dataset/pipe.jpg")
    if chance.random() < 0.02:
        (folder / "dataset/loop.jpg").symlink_to("loop.jpg")
    if chance.random() < 0.01:
        shutil.rmtree(folder / "dataset")
        (folder / "dataset").symlink_to("/dev/null")


def try_seed(seed: int, root: Path) -> tuple[str, list[str]]:
    """(valid or explained, the rules with findings). Raises any exception that lint does not handle."""
    chance = random.Random(seed)
    files = dict(BASE)
    for _ in range(chance.choice((0, 1, 1, 1, 2, 3, 6))):
        chance.choice(SPOILERS)(chance, files)
    write_files(root / "jobs/job", files, chance)
    settings = stack(chance.choice(("RTX 5090", "RTX 4080 (16 GB)", "A100", "?")), job={})
    examiner = Examiner()
    report = lint_jobs(settings, root, examiner=examiner)
    check_report(report)
    needed = {rule.code for rule in NEEDED} & {finding.code for finding in report.errors}
    refused = ""
    try:
        (job,) = declare_jobs(settings, root, examiner)
        assert len(job.run_id) == 12
        json.loads(job.image_set.manifest)
    except BadInput as bad:
        refused = str(bad)
    assert bool(refused) == bool(needed), f"lint says {needed}, declare_jobs {refused!r}"
    return ("explained" if report.errors else "valid"), sorted({finding.code for finding in report.findings})


def check_report(report: LintReport) -> None:
    for finding in report.findings:
        text = str(finding)
        assert text.isprintable(), text
        assert len(text) < 3000, text[:200]
        assert all([finding.message, finding.rule, finding.fix])
        text.encode()


def try_seeds(seeds: range) -> tuple[Counter[str], Counter[str], list[str]]:
    """(outcomes, rules, tracebacks) of many seeds."""
    outcomes: Counter[str] = Counter()
    rules: Counter[str] = Counter()
    faults: list[str] = []
    with tempfile.TemporaryDirectory() as place:
        for seed in seeds:
            root = Path(place) / str(seed)
            try:
                outcome, codes = try_seed(seed, root)
                outcomes[outcome] += 1
                rules.update(codes)
            except Exception:  # noqa: BLE001 - any exception is a fault
                outcomes["traceback"] += 1
                faults.append(f"seed {seed}:\n{traceback.format_exc(limit=-6)}")
            shutil.rmtree(root, ignore_errors=True)
    return outcomes, rules, faults


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=20_000)
    parser.add_argument("--first", type=int, default=0)
    arguments = parser.parse_args()
    last = arguments.first + arguments.seeds
    chunks = [range(start, min(start + 250, last)) for start in range(arguments.first, last, 250)]
    outcomes: Counter[str] = Counter()
    rules: Counter[str] = Counter()
    with ProcessPoolExecutor(os.cpu_count()) as pool:
        for some_outcomes, some_rules, faults in pool.map(try_seeds, chunks):
            outcomes += some_outcomes
            rules += some_rules
            for fault in faults[:3]:
                print(fault)
    print(
        f"{outcomes.total()} folders: "
        + ", ".join(f"{count} {name}" for name, count in outcomes.most_common())
    )
    print(
        f"{len(rules)} rules with findings: "
        + ", ".join(f"{code} {count}" for code, count in rules.most_common())
    )
    return 1 if outcomes["traceback"] else 0


if __name__ == "__main__":
    sys.exit(main())
