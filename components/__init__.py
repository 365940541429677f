"""The Pulumi resources, one file each. pipeline.py creates them all for a stack.

Every stack's state contains the module names and the names of providers and resources (docs/pulumi.md), so they are never
renamed.
"""
