"""From component effects to numbers with intervals, floors and nulls; knows no system."""
