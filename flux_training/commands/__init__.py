"""The `flux` command, which `make` calls: a module or folder for each command, and cli.py for what they share.

Code for the command line and its output belongs here. Rules about runs belong in training/, requests to services in clients/.
"""
