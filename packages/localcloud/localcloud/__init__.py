"""A cloud on this machine: S3 storage, SaladCloud, Kelpie, Cloudflare and GPU nodes as real HTTP servers and processes."""
