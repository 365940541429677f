"""`flux costs`: what the runs in the bucket cost, beside their estimates."""
