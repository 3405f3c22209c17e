"""Heads: how one is removed, what its removal costs, and how that changes along training."""
