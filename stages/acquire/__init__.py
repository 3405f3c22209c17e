"""Bring the raw material in: simulated, downloaded or local atlases, and the counts of their annotated cells."""
