"""What all sections of the settings are made of."""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

Confidence = Annotated[float, Field(gt=0.5, lt=1.0)]
Count = Annotated[int, Field(ge=1)]
Key = Annotated[str, Field(pattern=r"^[A-Za-z0-9_][A-Za-z0-9_-]*$")]
"""A name that ``dvc.yaml`` puts into commands and paths: a shell sees one plain word in it."""
Address = Annotated[str, Field(pattern=r"^(https://|http://(127\.0\.0\.1|localhost)[:/])")]
"""Where a file is fetched from: over TLS, or from this computer itself."""
Metric = Literal[
    "gini",
    "gini_corrected",
    "effective_number",
    "effective_number_miller_madow",
    "effective_number_chao_shen",
    "richness",
    "evenness",
    "hill_0",
    "hill_0_5",
    "hill_1",
    "hill_2",
]


class Section(BaseModel):
    """A part of the settings: unknown keys are refused, values never change after reading."""

    model_config = ConfigDict(extra="forbid", frozen=True, defer_build=True)
