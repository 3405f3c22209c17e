"""Pairs of attention heads: what removing two costs beyond the sum of what each costs alone."""
