"""Clients for SaladCloud, Kelpie, Cloudflare and object storage. No Pulumi.

This package knows how the services are called and what their failures mean. The decisions about what to request are in
training/ and components/.
"""
