"""The `flux` command: what `make` calls, from a stack's state to trained weights in outputs/."""
