"""The first frame of a video as a JPEG, by the program ffmpeg: no library of this project decodes videos."""

import shutil
import subprocess
from pathlib import Path

FFMPEG = "ffmpeg"
MAX_SECONDS = 20


def first_frame(video: Path) -> bytes | None:
    """None if ffmpeg is not installed or cannot decode the file."""
    if shutil.which(FFMPEG) is None:
        return None
    command = [FFMPEG, "-v", "error", "-nostdin", "-protocol_whitelist", "file,pipe", "-i", f"file:{video}"]
    output = ["-frames:v", "1", "-f", "image2pipe", "-c:v", "mjpeg", "-"]
    try:
        done = subprocess.run([*command, *output], capture_output=True, timeout=MAX_SECONDS, check=True)  # noqa: S603 - a fixed program, on a file of the user
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout
