"""A cloud on this machine: S3 storage, SaladCloud, Kelpie and nodes, for the stack `dev`.

Real HTTP between real processes. Nothing of the product is imported here, and nothing here by the product.
"""
