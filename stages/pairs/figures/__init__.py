"""Figures of pairs of heads."""
