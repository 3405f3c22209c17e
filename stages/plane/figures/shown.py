"""Say which tissues are drawn: real ones, and simulated ones only where no real one exists."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from stages.base import study


def real_first(names: Sequence[tuple[str, str, str]], about: study.Study) -> NDArray[np.bool_]:
    """Say which rows to draw: no simulated tissue of which there is a real one.

    Parameters
    ----------
    names
        Cohort, platform and tissue of each row.
    """
    made = {name for name in set(names) if about.evidence(*name) == study.SIMULATED}
    real = {tissue for *_, tissue in set(names) - made}
    return np.array([name not in made or name[2] not in real for name in names], dtype=np.bool_)
