"""`flux webhook`: a small receiver of Kelpie's calls. They are not signed, so a call is only a hint to look at the job.

Here belongs receiving, remembering what was told, and the ways to tell it.
"""
