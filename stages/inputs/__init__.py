"""Bring the raw material in, simulated, downloaded or local, and count its annotated cells."""
