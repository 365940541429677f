"""Captions from a vision model: the client, the form of its requests, and the reading of answers."""
