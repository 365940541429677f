"""Estimates how long a training job takes: its parts, each as a range, calibrated by finished runs. Pure."""
