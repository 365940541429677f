"""Faults on demand: of the network, the services and the nodes."""
