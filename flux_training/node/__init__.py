"""What runs on the GPU: launch.py, one file of the standard library, sent with each run and started by Kelpie's worker.

Nothing else belongs here: on the node it is alone.
"""
