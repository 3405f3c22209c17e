"""What trainings that may be set side by side have in common: everything but the seed."""

import json
from pathlib import Path
from typing import Any, Literal

from stages.base.settings import Settings
from stages.inputs.settings import MiniCellModel, MiniModel, Recipe

Trained = Literal["model", "cellmodel"]
"""Which of the two models: its section of the settings."""
STATEMENT_FILE = "made_by.json"
"""In the folder of a seed: what its effects come from."""


def folder_of(root: Path, seed: int) -> Path:
    """Return where the effects of a training lie."""
    return root / f"seed{seed}"


def recipe(settings: Settings, of: Trained = "model") -> dict[str, Any]:
    """Return what decides the effects of heads, but for the seed; empty if nothing is trained."""
    model = getattr(settings, of)
    if isinstance(model, MiniCellModel):
        return {
            "haematopoiesis": settings.haematopoiesis.model_dump(mode="json"),
            "model": model.model_dump(mode="json", include={"checkpoints"}),
            # Where the file of cells lies decides nothing.
            "cells": model.cells.model_dump(mode="json", exclude={"h5ad"}),
            "train": _unseeded(model.train),
            "sweep": settings.cell_heads.model_dump(mode="json", include={"heads", "precision"}),
        }
    if not isinstance(model, MiniModel):
        return {}
    return {
        "model": model.model_dump(mode="json", include={"checkpoints", "corpus", "text"}),
        "train": _unseeded(model.train),
        "sweep": settings.sweep.model_dump(
            mode="json", include={"heads", "estimator", "precision"}
        ),
    }


def _unseeded(train: Recipe) -> dict[str, Any]:
    return train.model_dump(mode="json", exclude={"seed", "save_every"})


def same_recipe(folder: Path, settings: Settings, of: Trained = "model") -> bool:
    """Return whether a folder of effects was made by the recipe of these settings."""
    path = folder / STATEMENT_FILE
    if not path.exists():
        return False
    made: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))["recipe"]
    return bool(made) and made == recipe(settings, of)
