"""S3 storage: nanio, with R2's behaviour around it."""
