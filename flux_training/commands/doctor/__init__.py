"""`flux doctor`: checks everything that a training needs before it costs money.

Checks that change nothing belong here: of this machine (machine.py) or of a service (services.py).
"""
