"""The launcher as it is sent to nodes: one zip archive, and the command that checks and runs it.

The same sources give the same bytes on every machine: members are sorted, stored without compression and carry no time.
"""

import hashlib
import io
import zipfile
from dataclasses import dataclass
from functools import cache
from pathlib import Path

HERE = Path(__file__).parent
PACKAGE = "flux_training/node/launcher"
CONFIG_FOLDER = "training-config"
PROGRAM = "python"

# This bootstrap script is part of each queued job, so nobody can change it in the bucket. It runs exactly the bytes whose
# SHA-256 it has checked.
BOOTSTRAP = """\
import hashlib,io,sys,zipfile
name="training-config/launch-"+sys.argv[1]+".pyz"
with open(name,"rb") as file: data=file.read(1<<22)
found=hashlib.sha256(data).hexdigest()
if found!=sys.argv[1]:
    print(name,"has another SHA-256:",found,flush=True)
    sys.exit(2)
archive=zipfile.ZipFile(io.BytesIO(data))
exec(compile(archive.read("__main__.py"),name,"exec"),{"__name__":"__main__","archive":archive})
"""


@dataclass(frozen=True)
class LauncherBundle:
    """The archive, and what a job needs to run it."""

    data: bytes
    sha256: str

    @property
    def file_name(self) -> str:
        """Its name below config/; a new version never replaces the one that a queued job refers to."""
        return f"launch-{self.sha256}.pyz"

    @property
    def arguments(self) -> list[str]:
        """Arguments of `python`. -I: modules in the working directory cannot replace the standard library's."""
        return ["-I", "-c", BOOTSTRAP, self.sha256]


@cache
def launcher_bundle() -> LauncherBundle:
    data = build_archive()
    return LauncherBundle(data, hashlib.sha256(data).hexdigest())


def build_archive() -> bytes:
    members = {f"{PACKAGE}/{path.name}": path.read_bytes() for path in (HERE / "launcher").glob("*.py")}
    members |= {"flux_training/__init__.py": b"", "flux_training/node/__init__.py": b""}
    members["__main__.py"] = (HERE / "archive_main.py").read_bytes()
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_STORED) as file:
        for name in sorted(members):
            member = zipfile.ZipInfo(name)  # ZipInfo's default date is 1980-01-01, with no permissions.
            # create_system gets a fixed value: by default it depends on the operating system.
            member.create_system = 3
            file.writestr(member, members[name])
    return archive.getvalue()
