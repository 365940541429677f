"""The Pulumi resources, one file each, and pipeline.py, which puts them together.

Module and class names here are part of every stack's state (PULUMI.md): they are never renamed.
"""
