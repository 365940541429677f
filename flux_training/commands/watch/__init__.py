"""Jobs of a deployed stack: `status`, `logs`, and following them until they end."""
