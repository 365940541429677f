"""Cloudflare's stand-in: R2 buckets, bucket-scoped tokens and temporary credentials, which the local S3 honours.

Here belongs what Cloudflare's API answers; what its keys may do in the S3 server is rights.py.
"""
