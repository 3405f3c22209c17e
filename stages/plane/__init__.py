"""Cells and heads in one plane, with the uncertainty of each."""
