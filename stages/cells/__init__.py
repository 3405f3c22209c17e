"""From cells to proportions, metrics, young-against-old tests, platform concordance and drivers."""
