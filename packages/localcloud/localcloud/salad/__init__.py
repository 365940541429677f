"""The SaladCloud API's stand-in: container groups, instances, GPU classes, quotas and billing.

Here belongs what its OpenAPI document says; the machines behind it are localcloud/supervisor.py.
"""
