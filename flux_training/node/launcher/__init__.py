"""The launcher: runs one training job on a node and makes sure that its results can be trusted.

Standard library only, Python 3.10 or newer: it is sent to the node as one zip archive (`flux_training/node/bundle.py`).
"""
