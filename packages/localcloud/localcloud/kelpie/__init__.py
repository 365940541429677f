"""The Kelpie API's stand-in: jobs, work for nodes, scaling rules and the autoscaler.

Here belongs what the real one was recorded to answer, its quirks included; the worker on the node is localcloud/worker/.
"""
