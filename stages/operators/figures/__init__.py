"""Figures of operators."""
