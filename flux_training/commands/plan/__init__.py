"""`flux plan`: what an update would train, and for how much."""
