"""A stack's state and the places where it is stored."""
