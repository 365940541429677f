"""The console script `pulumi`: the CLI if there is one, otherwise this engine."""

import subprocess
import sys
from pathlib import Path

import pytest
from pulumi_embedded import CLI_VERSION

SCRIPT = "#!{python}\nimport sys\nfrom pulumi_embedded.launcher import main\nsys.exit(main())\n"
CLI = '#!/bin/sh\necho "the CLI: $*"\nexit 3\n'


def script(folder: Path, content: str) -> Path:
    folder.mkdir()
    path = folder / "pulumi"
    path.write_text(content.format(python=sys.executable))
    path.chmod(0o755)
    return path


def run(path: Path, *folders: Path, engine: str = "") -> tuple[int, str]:
    """Run `pulumi version --json` with these folders as the PATH."""
    search_path = ":".join(map(str, [*folders, "/usr/bin", "/bin"]))
    done = subprocess.run(
        [path, "version"],
        env={"PATH": search_path, **({"ENGINE": engine} if engine else {})},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    return done.returncode, done.stdout + done.stderr


def test_two_environments_do_not_call_each_other(tmp_path: Path) -> None:
    own, other = script(tmp_path / "a", SCRIPT), script(tmp_path / "b", SCRIPT)
    assert run(own, own.parent, other.parent) == (0, f"v{CLI_VERSION}\n")


def test_the_cli_is_preferred_wherever_it_is_on_the_path(tmp_path: Path) -> None:
    own, other, cli = (
        script(tmp_path / "a", SCRIPT),
        script(tmp_path / "b", SCRIPT),
        script(tmp_path / "c", CLI),
    )
    assert run(own, own.parent, other.parent, cli.parent) == (3, "the CLI: version\n")
    assert run(own, own.parent, cli.parent, engine="embedded") == (0, f"v{CLI_VERSION}\n")


@pytest.mark.parametrize("engine", ["cli", "other"])
def test_a_choice_that_cannot_be_met_is_refused(tmp_path: Path, engine: str) -> None:
    own = script(tmp_path / "a", SCRIPT)
    code, printed = run(own, own.parent, engine=engine)
    assert code == 1
    assert printed.startswith("error: ENGINE")


@pytest.mark.parametrize("start", ["exec ", ""])
def test_a_wrapper_that_starts_this_script_is_not_the_cli(tmp_path: Path, start: str) -> None:
    own, cli = script(tmp_path / "a", SCRIPT), script(tmp_path / "c", CLI)
    wrapper = script(tmp_path / "b", f'#!/bin/sh\n{start}{own} "$@"\n')
    for first in (own, wrapper):
        assert run(first, wrapper.parent, own.parent) == (0, f"v{CLI_VERSION}\n")
        assert run(first, wrapper.parent, cli.parent) == (3, "the CLI: version\n")
    assert run(own, wrapper.parent, engine="cli")[0] == 1


def test_a_message_names_the_program_as_the_user_can_type_it(tmp_path: Path) -> None:
    program = Path(sys.executable).with_name("pulumi")
    (tmp_path / "Pulumi.yaml").write_text("name: test\nruntime: python\nbackend: {url: 'file://.'}\n")
    for path, typed in (("/usr/bin:/bin", program), (f"{program.parent}:/usr/bin:/bin", "pulumi")):
        done = subprocess.run(
            [program, "config", "set", "color", "red", "--stack", "prod"],
            env={"PATH": path, "ENGINE": "embedded"},
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )
        assert (
            done.stderr == f"error: no stack named 'prod' found; create it with `{typed} stack init prod`\n"
        )
