"""What the effects of features are measured by."""

from stages.measurement.metrics import OF_EFFECTS

METRICS = OF_EFFECTS
