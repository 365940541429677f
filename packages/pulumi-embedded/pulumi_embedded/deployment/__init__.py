"""Turns a program's registrations into steps, and performs them."""
