"""What runs on the GPU: the launcher, and what a queued job carries for it (docs/node.md)."""
