"""Schema of the list of graphs of neighbours."""

from stages.base.columns import schema, text
from stages.inputs.tables import TISSUE

GRAPHS = schema("graphs", {"graph": text()} | TISSUE, ["graph"])
"""The graphs of neighbours of an atlas."""
