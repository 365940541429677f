"""A node: the Kelpie worker in a folder. The worker's quirks are intended."""
