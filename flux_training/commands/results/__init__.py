"""Results of runs: `fetch`.

Code that copies results from the bucket to outputs/ belongs here.
"""
