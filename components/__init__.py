"""The Pulumi resources, one file each, and pipeline.py, which puts them together.

Module names, and the names of providers and resources, are part of every stack's state (docs/pulumi.md): they are never renamed.
"""
