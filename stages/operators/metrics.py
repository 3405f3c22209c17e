"""What the effects of an operator's factors are measured by."""

from stages.measurement.metrics import OF_EFFECTS

METRICS = OF_EFFECTS
