"""Read the index of weights that come in parts."""

import json
import re
from pathlib import Path

from stages.base.errors import CheckpointError

INDEX = ".index.json"
"""What the name of an index adds to that of the weights whose parts it names."""


def parts_of(index: Path) -> dict[str, set[str]]:
    """Return the files that an index of sharded weights names, with the tensors of each.

    Raises
    ------
    CheckpointError
        It is no index, names nothing, or names a file outside its folder.
    """
    try:
        placed = json.loads(index.read_text(encoding="utf-8"))["weight_map"].items()
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        reason = " ".join(str(error).split())[:200]
        msg = f"{index} is no index of weights ({reason}). Fetch it again."
        raise CheckpointError(msg) from None
    parts: dict[str, set[str]] = {}
    kind = Path(index.name.removesuffix(INDEX)).suffix
    for tensor, name in placed:
        if not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.-]*", str(name)) or not name.endswith(kind):
            msg = (
                f"{index} names {name!r} as the file of {tensor}; only {kind} files beside it are "
                "read. Fetch it again, or name another revision."
            )
            raise CheckpointError(msg)
        parts.setdefault(name, set()).add(tensor)
    if not parts:
        msg = f"{index} names no file of weights. Fetch it again, or name another revision."
        raise CheckpointError(msg)
    return parts
