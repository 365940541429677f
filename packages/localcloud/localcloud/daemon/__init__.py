"""The daemon: one process with both HTTP servers and the supervisor of the nodes."""
