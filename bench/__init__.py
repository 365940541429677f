"""`make bench`: each comparison side by side in one run; the figures go to bench/results.md."""
