"""Ablate heads through TransformerLens, on request: one side of ``benchmarks.ablation_routes``.

TransformerLens lives in an environment of its own (``python -m venv lens && lens/bin/pip install
torch==2.13.0 transformer-lens==4.3.0``), since its requirements are not this project's. This script
imports nothing of the project. It loads a checkpoint folder and tokens, then answers each line
``LAYER HEAD`` on its input by one line of JSON: the seconds that a full pass with that head's
``hook_z`` set to zero took, and the mean loss in nats per token.
"""

import argparse
import json
import sys
import time

import numpy as np
import torch
import transformers
from transformer_lens.model_bridge import TransformerBridge


def main() -> None:
    """Answer until the input ends."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--checkpoint", required=True)
    parser.add_argument("--tokens", required=True, help="int32 (n_sequences, seq), .npy")
    parser.add_argument("--batch-size", type=int, required=True)
    parser.add_argument("--threads", type=int, required=True)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.set_float32_matmul_precision("highest")
    tokens = torch.from_numpy(np.load(args.tokens, allow_pickle=False).astype(np.int64))
    load = {"local_files_only": True}
    model = transformers.AutoModelForCausalLM.from_pretrained(
        args.checkpoint, dtype=torch.float32, **load
    ).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(args.checkpoint, **load)
    lens = TransformerBridge.boot_transformers(args.checkpoint, hf_model=model, tokenizer=tokenizer)
    # TransformerLens prints while it loads; the reader waits for this line.
    print("ready", flush=True)
    for line in sys.stdin:
        layer, head = (int(word) for word in line.split())

        def silence(z: torch.Tensor, hook: object, head: int = head) -> torch.Tensor:
            z[:, :, head] = 0.0  # (batch, seq, n_heads, d_head)
            return z

        started = time.perf_counter()
        losses = []
        with torch.inference_mode():
            for start in range(0, len(tokens), args.batch_size):
                batch = tokens[start : start + args.batch_size]
                loss = lens.run_with_hooks(
                    batch,
                    return_type="loss",
                    loss_per_token=True,
                    fwd_hooks=[(f"blocks.{layer}.attn.hook_z", silence)],
                )
                losses.append(loss.double().mean(dim=1))
        seconds = time.perf_counter() - started
        mean = float(torch.cat(losses).mean())
        print(json.dumps({"seconds": seconds, "loss": mean}), flush=True)


if __name__ == "__main__":
    main()
