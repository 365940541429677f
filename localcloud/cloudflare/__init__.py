"""Cloudflare's stand-in: R2 buckets, bucket-scoped tokens and temporary credentials, which the local S3 honours."""
