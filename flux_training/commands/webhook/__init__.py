"""`flux webhook`: receives Kelpie's calls. They are not signed, so a call only makes the server read the status of the job.

Code that receives calls, remembers what was reported, or notifies a person belongs here.
"""
