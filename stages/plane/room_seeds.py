"""Tables of further trainings of the demo's models, and which may be set side by side.

``make seeds`` (:mod:`stages.audit.trainings`) writes them, a folder a model and seed.
"""

import json
from pathlib import Path
from types import MappingProxyType
from typing import Any, get_args

from stages.base.settings import Settings
from stages.heads.recipes import STATEMENT_FILE, Trained, folder_of, recipe

ROOT = Path("reports/room_seeds")
TABLES, MEASURED = "tables", "measured"
DECIDING: MappingProxyType[Trained, tuple[str, ...]] = MappingProxyType(
    {
        "model": ("pairs", "epistasis", "items", "spectrum", "measured"),
        "cellmodel": (
            *("cell_pairs", "epistasis", "items", "spectrum", "separation", "structures"),
            *("autoencoders", "trace", "combine", "steer"),
            *("operator_maps", "operator_gates", "operator_readouts"),
            *("operator_factors", "operator_edges", "measured"),
        ),
    }
)
"""Settings of the rooms that decide their numbers."""


def rooms_recipe(settings: Settings, of: Trained) -> dict[str, Any]:
    """Return what decides the tables of all rooms but for the seed; empty if nothing is trained."""
    trained = recipe(settings, of)
    rooms = {name: getattr(settings, name).model_dump(mode="json") for name in DECIDING[of]}
    return trained | {"rooms": rooms} if trained else {}


def room_seeds(settings: Settings, root: Path = ROOT) -> dict[tuple[str, int], Path]:
    """Return the folders of the trainings by the recipe of these settings, by model and seed."""
    found = {}
    for of in get_args(Trained):
        wanted = rooms_recipe(settings, of)
        for seed in getattr(settings.room_seeds, of):
            name = getattr(settings, of).name
            folder = folder_of(root / name, seed)
            path = folder / STATEMENT_FILE
            if wanted and path.exists():
                made = json.loads(path.read_text(encoding="utf-8"))["recipe"]
                if made == wanted:
                    found[name, seed] = folder
    return found
