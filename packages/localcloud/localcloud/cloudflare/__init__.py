"""Cloudflare's API for R2: buckets, tokens and temporary credentials."""
