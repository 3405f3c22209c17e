"""The verdicts as a person reads them, the worst first, and as a file."""

import json
import math
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from stages.audit.verification.verdicts import Status, Verdict, show
from stages.base.files import write_text


def worst_first(verdicts: Sequence[Verdict]) -> list[Verdict]:
    """Return the verdicts in the order of a report."""
    return sorted(verdicts, key=lambda verdict: (verdict.status.severity, verdict.file))


def table(verdicts: Sequence[Verdict]) -> str:
    """Return one line a file, the worst first, and a line that counts."""
    lines = []
    width = max(len(status.value) for status in Status)
    for verdict in worst_first(verdicts):
        lines.append(f"{verdict.status.value:<{width}}  {verdict.file}")
        if verdict.finding.detail:
            lines.append(f"{'':<{width}}    {verdict.finding.detail}")
    counts = Counter(verdict.status for verdict in verdicts)
    counted = ", ".join(f"{counts[status]} {status.value}" for status in Status if counts[status])
    return "\n".join([*lines, f"{len(verdicts)} outputs: {counted}"])


def write(verdicts: Sequence[Verdict], path: Path, *, about: dict[str, Any]) -> None:
    """Write everything that was found as JSON; numbers that JSON lacks stand as text."""
    content = about | {
        "counts": {s.value: sum(v.status is s for v in verdicts) for s in Status},
        "outputs": [
            {
                "file": verdict.file,
                "output": verdict.output,
                "stage": verdict.stage,
                "status": verdict.status.value,
                "detail": verdict.finding.detail,
                "columns": [
                    {
                        "column": found.column,
                        "row": found.row,
                        "committed": _plain(found.committed),
                        "recomputed": _plain(found.recomputed),
                        "difference": _plain(found.size),
                        "tolerance": found.tolerance,
                        "n_differ": found.n_differ,
                        "n": found.n,
                    }
                    for found in verdict.finding.deviations
                ],
            }
            for verdict in worst_first(verdicts)
        ],
    }
    write_text(path, json.dumps(content, indent=2, allow_nan=False) + "\n")


def _plain(value: Any) -> Any:
    item = value.item() if hasattr(value, "item") else value
    if isinstance(item, float) and not math.isfinite(item):
        return str(item)
    return item if isinstance(item, bool | int | float | str | None) else show(item)
