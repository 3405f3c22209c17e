"""Language models, taken apart: blocks, heads, and what stands in for them."""
