"""Exactly one job in Kelpie's queue for each run: which jobs belong to a run, who may post one, and how a run is queued again."""
