"""Loss and slopes of a TopK autoencoder by sae-lens, for a test: run by a Python that has it.

``python sae_lens_slopes.py IN.npz OUT.npz``
"""

import sys

import numpy as np
import torch
from sae_lens import TopKTrainingSAE, TopKTrainingSAEConfig
from sae_lens.saes.sae import TrainStepInput


def main(given: str, out: str) -> None:
    """Read rows, weights and k; write what sae-lens makes of them."""
    arrays = {name: torch.from_numpy(array) for name, array in np.load(given).items()}
    config = TopKTrainingSAEConfig(
        d_in=arrays["x"].shape[1],
        d_sae=len(arrays["encoder"]),
        k=int(arrays["k"]),
        dtype="float64",
        device="cpu",
        apply_b_dec_to_input=True,
        normalize_activations="none",
        rescale_acts_by_decoder_norm=False,
        aux_loss_coefficient=1.0,
    )
    sae = TopKTrainingSAE(config)
    sae.load_state_dict(
        {
            "W_enc": arrays["encoder"].T.contiguous(),
            "b_enc": arrays["encoder_bias"],
            "W_dec": arrays["decoder"].T.contiguous(),
            "b_dec": arrays["centre"],
        }
    )
    step = TrainStepInput(
        sae_in=arrays["x"],
        coefficients={},
        dead_neuron_mask=arrays["dead"],
        n_training_steps=0,
        is_logging_step=False,
    )
    found = sae.training_forward_pass(step)
    mse, auxiliary = found.losses["mse_loss"], found.losses["auxiliary_reconstruction_loss"]
    # Both are means over rows; ours is a share of the variance, and of the error that is left.
    n, error = len(arrays["x"]), (found.sae_out - found.sae_in).square().sum().detach()
    total = (arrays["x"] - arrays["x"].mean(dim=0)).square().sum()
    (mse * n / total + arrays["auxiliary"] * auxiliary * n / error).backward()
    np.savez(
        out,
        explained=1 - float(mse * n / total),
        codes=found.feature_acts.detach().numpy(),
        encoder=sae.W_enc.grad.T.numpy(),
        encoder_bias=sae.b_enc.grad.numpy(),
        decoder=sae.W_dec.grad.T.numpy(),
        centre=sae.b_dec.grad.numpy(),
    )


if __name__ == "__main__":
    main(*sys.argv[1:])
