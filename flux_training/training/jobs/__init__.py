"""Job folders: which ones a stack declares, what lint finds in them, and sweeps."""
