"""Filtering: rows in, the rows worth training on out; what was rejected is kept with its reason."""
