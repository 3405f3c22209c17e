"""From tables and figures to the paper: values, includes, rendering."""
