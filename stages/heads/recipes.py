"""What trainings that may be set side by side have in common: everything but the seed."""

import json
from pathlib import Path
from typing import Any

from stages.base.settings import Settings
from stages.inputs.settings import MiniModel

STATEMENT_FILE = "made_by.json"
"""In the folder of a seed: what its effects come from."""


def folder_of(root: Path, seed: int) -> Path:
    """Return where the effects of a training lie."""
    return root / f"seed{seed}"


def recipe(settings: Settings) -> dict[str, Any]:
    """Return what decides the effects of heads, but for the seed; empty for no mini model."""
    model, sweep = settings.model, settings.sweep
    if not isinstance(model, MiniModel):
        return {}
    return {
        "model": model.model_dump(mode="json", include={"checkpoints", "corpus", "text"}),
        "train": model.train.model_dump(mode="json", exclude={"seed", "save_every"}),
        "sweep": sweep.model_dump(mode="json", include={"heads", "estimator", "precision"}),
    }


def same_recipe(folder: Path, settings: Settings) -> bool:
    """Return whether a folder of effects was made by the recipe of these settings."""
    path = folder / STATEMENT_FILE
    if not path.exists():
        return False
    made: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))["recipe"]
    return bool(made) and made == recipe(settings)
