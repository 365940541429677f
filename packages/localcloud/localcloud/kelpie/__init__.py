"""The Kelpie API: jobs, work for nodes, scaling rules and the autoscaler."""
