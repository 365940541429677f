"""SaladCloud: its API, and the supervisor that runs the instances of container groups."""
