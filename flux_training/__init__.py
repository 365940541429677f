"""The library behind the Pulumi program and the `flux` command.

What a training job is (training/), the services it needs (clients/), the commands (commands/), and what runs on a GPU (node/).
"""
