"""One module a figure, one style for all."""
