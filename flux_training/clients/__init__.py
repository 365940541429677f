"""Clients for SaladCloud, Kelpie, Cloudflare and object storage. No Pulumi.

How services are called, and what their failures mean. What is wanted from them is decided in training/ and components/.
"""
