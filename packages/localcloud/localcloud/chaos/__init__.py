"""Faults on demand or by a seeded rate: of the network, of the services, of the nodes.

Here belongs what goes wrong now and then; what a service always does is in its own folder.
"""
