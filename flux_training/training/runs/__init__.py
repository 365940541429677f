"""Runs: their ids, their objects in the bucket, their state, and what has changed since the last one."""
