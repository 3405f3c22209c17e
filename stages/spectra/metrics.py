"""What the directions of a layer are measured by: the effective number is its effective rank."""

from stages.measurement.metrics import OF_EFFECTS, REGISTRY

METRICS = (*OF_EFFECTS, REGISTRY["hill_2"])
