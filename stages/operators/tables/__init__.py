"""Schemas of what operators are held against, read off and made of."""
