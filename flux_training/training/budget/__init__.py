"""Limits on what the stacks of a bucket queue in a day and in a month. Pure."""
