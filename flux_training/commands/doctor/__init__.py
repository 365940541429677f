"""`flux doctor`: looks at everything a training needs, before anyone pays, and says a line each with the mend.

Here belongs a check that only looks, of this machine (surroundings) or of a service (services).
"""
