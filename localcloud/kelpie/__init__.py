"""The Kelpie API's stand-in: jobs, work for nodes, scaling rules and the autoscaler."""
