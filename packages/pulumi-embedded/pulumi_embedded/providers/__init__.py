"""Providers: dynamic ones, plugins, and the built-in one for stack references."""
