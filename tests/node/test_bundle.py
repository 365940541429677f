"""The archive that is sent to nodes, and the command that a queued job carries."""

import hashlib
import io
import os
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from flux_training.node import bundle
from flux_training.node.bundle import LauncherBundle, build_archive, launcher_bundle
from tests.node.runs import StoredRun

ESCAPES = [
    "../run.py",
    "../../x",
    "sub/launch.json",
    "launch.jsonx",
    "xlaunch.json",
    "launch.py",
    "other.pyz",
]


def test_the_same_sources_give_the_same_bytes(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Whatever the time, the order of the folder and the permissions."""
    expected = build_archive()
    copied = tmp_path / "launcher"
    copied.mkdir()
    for path in sorted((bundle.HERE / "launcher").glob("*.py"), reverse=True):
        (copied / path.name).write_bytes(path.read_bytes())
        (copied / path.name).chmod(0o777)
    (tmp_path / "archive_main.py").write_bytes((bundle.HERE / "archive_main.py").read_bytes())
    monkeypatch.setattr(bundle, "HERE", tmp_path)
    assert build_archive() == expected


def test_the_command_fits_into_a_job() -> None:
    assert len(" ".join(launcher_bundle().arguments)) < 1000


def test_modules_come_from_the_checked_bytes_and_not_from_a_file(tmp_path: Path) -> None:
    """The archive is replaced after it was read; modules of these names in the working directory are ignored, too."""
    main = b"import os\nos.remove(name)\nimport flux_training.node.launcher.errors as e\nprint(e.__spec__.loader)\n"
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w") as archive, zipfile.ZipFile(io.BytesIO(build_archive())) as real:
        for item in real.namelist():
            content = real.read(item)
            if item == "__main__.py":
                importer, found, _ = content.partition(b"from flux_training.node.launcher.main")
                assert found
                content = importer + main.replace(b"name", b"sys.argv[2]")
            archive.writestr(item, content)
    changed = LauncherBundle(data.getvalue(), hashlib.sha256(data.getvalue()).hexdigest())
    path = tmp_path / "training-config" / changed.file_name
    path.parent.mkdir()
    path.write_bytes(changed.data)
    (tmp_path / "json.py").write_text("raise SystemExit('the working directory was searched')")
    command = [sys.executable, *changed.arguments, str(path)]
    done = subprocess.run(
        command, cwd=tmp_path, capture_output=True, text=True, check=False, env=dict(os.environ)
    )
    assert "ArchiveImporter" in done.stdout, done.stderr


def test_the_patterns_take_the_runs_own_files_and_nothing_else(tmp_path: Path) -> None:
    run = StoredRun(tmp_path / "bucket")
    sync = run.job.sync(launcher_bundle())
    config, record = (rule["pattern"] for rule in sync["before"])
    names = [path.name for path in run.config.iterdir()]
    assert len(names) == 4
    assert all(re.search(config, f"{run.job.run_prefix}config/{name}") for name in names)
    assert not any(re.search(config, f"{run.job.run_prefix}config/{name}") for name in ESCAPES)
    assert re.search(record, f"{run.job.run_prefix}output/run.json")
    assert not re.search(record, f"{run.job.run_prefix}output/../run.json")
    assert not re.search(record, f"x{run.job.run_prefix}output/run.json")
