"""Heads as maps between items (genes, token types), held against gates and taken to pieces."""
