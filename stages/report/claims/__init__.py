"""Hold every published claim against the tables, and say of each what became of it.

`published` reads the claims, which ``reports/claims.yaml`` states as data; `rules` looks up in the
tables what each is about; `verdict` compares; `printed` prepares the ledger for the paper.
The command line is ``python -m stages.report.claims``.
"""

from stages.report.claims.printed import context
from stages.report.claims.published import ClaimError, read
from stages.report.claims.rules import SCHEMAS, read_tables
from stages.report.claims.verdict import evaluate

__all__ = ["SCHEMAS", "ClaimError", "context", "evaluate", "read", "read_tables"]
