"""The project's files: Pulumi.yaml, configuration, secrets, the selected stack."""
