"""`make bench`: measurements beside what others do, each comparison side by side in one run.

Here belongs what is measured again; figures go to tests/bench/results.md, what follows from them to docs/decisions/.
"""
