"""Figures of cells: one module a figure."""
