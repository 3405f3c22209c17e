"""Families of transformers that heads can be removed from: one file a family.

To add one, write a subclass of :class:`~stages.models.architectures.base.Architecture` and name
its ``config.model_type`` here.
"""

from typing import Any, cast

from torch import nn

from stages.base.errors import AblationError
from stages.models.architectures.base import Architecture
from stages.models.architectures.bert import Bert
from stages.models.architectures.gpt2 import GPT2
from stages.models.architectures.gpt_neox import GPTNeoX
from stages.models.architectures.llama import Llama, Olmo2
from stages.models.architectures.scgpt import ScGPT

FAMILIES: dict[str, type[Architecture]] = {
    "bert": Bert,
    "gpt2": GPT2,
    "gpt_neox": GPTNeoX,
    "llama": Llama,
    "mistral": Llama,
    "olmo2": Olmo2,
    "qwen2": Llama,
    "qwen3": Llama,
    "scgpt": ScGPT,
}
"""By ``config.model_type``."""


def family(model_type: str, where: str) -> type[Architecture]:
    """Return the family of a kind of model; `where` says whose it is.

    Raises
    ------
    AblationError
        None is written for it.
    """
    if model_type not in FAMILIES:
        msg = (
            f"{where} is of the architecture {model_type!r}, whose heads are not described here. "
            f"Known: {', '.join(sorted(FAMILIES))}. Write a family in stages/models/architectures."
        )
        raise AblationError(msg)
    return FAMILIES[model_type]


def architecture_of(model: nn.Module) -> Architecture:
    """Return a model as its family describes it.

    Raises
    ------
    AblationError
        No family is written for this kind of model, or not for a variant that its config asks for.
    """
    config = cast("Any", model).config
    return family(str(config.model_type), "this model")(model)
