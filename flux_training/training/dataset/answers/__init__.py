"""Answers of captioning models: what in them is a caption. Pure."""
