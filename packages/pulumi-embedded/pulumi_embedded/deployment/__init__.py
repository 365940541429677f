"""Runs: from a program's registrations to the steps that make them true."""
