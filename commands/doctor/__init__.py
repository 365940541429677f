"""`flux doctor`: looks at everything a training needs, before anyone pays, and says a line each with the mend."""
