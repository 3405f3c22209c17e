"""What several tests share: the small real inputs, which lie beside the project or nowhere."""

from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from hypothesis import settings as hypothesis_settings

from stages.base.settings import Settings, parse

collect_ignore = ["sae_lens_slopes.py"]
"""Run by another Python, which has sae-lens."""

# A busy machine is no failure: nothing here tests how long something takes.
hypothesis_settings.register_profile("patient", deadline=None)
hypothesis_settings.load_profile("patient")

REPOSITORY = Path(__file__).parents[1]
SHARED = REPOSITORY.parent / "shared"


@pytest.fixture(scope="session")
def repository() -> Path:
    return REPOSITORY


@pytest.fixture(scope="session")
def real_input() -> Callable[[str], Path]:
    """Return what finds a small real input by its name, or skips the test that asks for it."""

    def find(name: str) -> Path:
        path = SHARED / "real" / name
        if not path.exists():
            pytest.skip(f"{name} is a test input that does not travel with the project")
        return path

    return find


@pytest.fixture(scope="session")
def marrow_cells(real_input) -> Path:
    """Return the cells of TMS FACS bone marrow: the real annotations, one row a cell."""
    return real_input("tms_marrow_facs_cells.csv.gz")


@pytest.fixture(scope="session")
def params() -> dict:
    """Return the committed settings, to be changed by a test."""
    return yaml.safe_load((REPOSITORY / "params.yaml").read_text(encoding="utf-8"))


@pytest.fixture(scope="session")
def settings(params) -> Settings:
    return parse(params)
