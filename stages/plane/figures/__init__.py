"""Figures of several systems side by side."""
