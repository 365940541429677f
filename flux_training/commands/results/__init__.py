"""Results of finished runs: `fetch`."""
