"""Schemas of the tables that the representations' stages write, one file a subject."""
