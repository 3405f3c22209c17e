"""Where every output comes from, and whether it comes out again."""
