"""Property values, their paths and differences, and URNs."""
