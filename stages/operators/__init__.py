"""Heads as maps between items (genes, token types), taken out of the model and held against gates."""
