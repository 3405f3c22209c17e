"""Schemas of the tables of this room, one module a subject."""
