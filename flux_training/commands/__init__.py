"""The `flux` command, which `make` calls: one module or folder a command, and what several of them share.

Here belongs what a person types and sees; what is decided about a run is in training/, how a service is asked in clients/.
"""
