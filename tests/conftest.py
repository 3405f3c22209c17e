"""What several tests share: the small real inputs, which lie beside the project or nowhere."""

from pathlib import Path

import pytest
import yaml
from hypothesis import settings as hypothesis_settings

from stages.settings import Settings, parse

# A busy machine is no failure: nothing here tests how long something takes.
hypothesis_settings.register_profile("patient", deadline=None)
hypothesis_settings.load_profile("patient")

REPOSITORY = Path(__file__).parents[1]
SHARED = REPOSITORY.parent / "shared"


@pytest.fixture(scope="session")
def repository() -> Path:
    return REPOSITORY


@pytest.fixture(scope="session")
def marrow_cells() -> Path:
    """Return the cells of TMS FACS bone marrow: the real annotations, one row a cell."""
    path = SHARED / "real" / "tms_marrow_facs_cells.csv.gz"
    if not path.exists():
        pytest.skip(f"{path.name} is a test input that does not travel with the project")
    return path


@pytest.fixture(scope="session")
def params() -> dict:
    """Return the committed settings, to be changed by a test."""
    return yaml.safe_load((REPOSITORY / "params.yaml").read_text(encoding="utf-8"))


@pytest.fixture(scope="session")
def settings(params) -> Settings:
    return parse(params)
