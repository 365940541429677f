"""`flux webhook`: receives Kelpie's calls. They are not signed, so a call only causes a look at the job.

Code that receives calls, remembers what was reported, or notifies a person belongs here.
"""
