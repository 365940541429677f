"""The services we drive: SaladCloud, Kelpie, Cloudflare, object storage. Knows nothing of Pulumi.

Here belongs how a service is asked and what its failures mean; what is wanted of it is decided in training/ and components/.
"""
