"""The version of ai-toolkit that run.py stands in for."""

VERSION = "0.12.26"
