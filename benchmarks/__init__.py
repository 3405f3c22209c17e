"""Claims of speed and memory, each a ratio of two ways measured side by side in one run."""
