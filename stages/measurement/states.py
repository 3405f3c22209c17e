"""Names of states: of revisions or folders of a model, say; ``step<N>`` says where it stands."""

import re

STATE = r"^[A-Za-z0-9][A-Za-z0-9._-]*$"
"""What a name may be: ``dvc.yaml`` puts it into commands and paths."""
_STEP = re.compile(r"step(\d+)")


def step_of(name: str) -> int | None:
    """Return N of ``step<N>``; nothing for any other name.

    Examples
    --------
    >>> step_of("step512"), step_of("main")
    (512, None)
    """
    found = _STEP.fullmatch(name)
    return int(found[1]) if found else None
