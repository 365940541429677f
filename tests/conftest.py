"""For all tests: the Python processes that they start, some thousand, find compiled files and do not each compile all they import."""

import os
import sys

os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False
