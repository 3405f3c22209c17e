"""Schemas of the tables of this room, one file a subject."""
