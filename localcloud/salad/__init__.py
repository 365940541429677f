"""The SaladCloud API's stand-in: container groups, instances, GPU classes, quotas and billing."""
