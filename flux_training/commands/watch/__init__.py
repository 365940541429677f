"""The state of deployed jobs: `status`, `logs`, and waiting until they end.

Code that reads the state of jobs from the queue and the bucket and shows it belongs here.
"""
