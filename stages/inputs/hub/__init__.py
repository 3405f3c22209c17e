"""Bring published checkpoints in from the Hugging Face Hub, and believe no byte unchecked.

`download` fetches the few files that are needed, `verify` says what must be true of them. The
command line is ``python -m stages.inputs.hub``.
"""

import os

# Read by huggingface_hub and transformers when they are imported: nothing is reported to anyone,
# and no thread asks the Hub to convert a checkpoint that has no safetensors.
os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
os.environ["DISABLE_SAFETENSORS_CONVERSION"] = "1"
