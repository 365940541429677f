"""The services we drive: SaladCloud, Kelpie, object storage. Knows nothing of Pulumi."""
