"""What the epistasis of pairs is measured by."""

from stages.measurement.metrics import OF_EFFECTS

METRICS = OF_EFFECTS
