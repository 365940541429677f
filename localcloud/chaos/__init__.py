"""Faults on demand or by a seeded rate: of the network, of the services, of the nodes."""
