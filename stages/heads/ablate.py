"""Remove every head of one checkpoint in turn and keep what each sequence of the text then costs.

Resumable: what is finished lies in the scratch folder. Several GPUs are used by
one process each, and so are the workers of a cluster (``conf/compute/``).
"""

import argparse
import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from stages.base import cli
from stages.base.errors import AblationError
from stages.base.files import only_one
from stages.base.settings import PARAMS_FILE, load
from stages.compute.run import kept, where_it_runs
from stages.compute.shards import Arrays, store
from stages.heads.components import UNIT
from stages.heads.covariates import read as read_attribution
from stages.heads.removals import Removal
from stages.heads.settings import Sweep
from stages.heads.subset import subset_of
from stages.heads.sweep import (
    Inputs,
    Shards,
    assemble,
    compute,
    plan,
    write_effects,
)
from stages.inputs.material import Material, Tokens
from stages.measurement.effects import Effects, State
from stages.models.architectures import architecture_of
from stages.models.devices import Precision, cast_blocks, devices, matmul_precision
from stages.models.interventions import single_heads
from stages.models.load import fingerprint, load_model, shape_of
from stages.models.passes import Passes

# Heads and sequences on which a faster precision is compared with float32.
SAMPLE_HEADS, SAMPLE_SEQUENCES = 8, 8


@dataclass(frozen=True)
class Job:
    """Everything a worker needs; sent to its process."""

    checkpoint: Path
    material: Material
    sequences: tuple[int, ...]
    """Which of the evaluated sequences."""
    precision: Precision
    batch: int | None
    reference: bool
    """Whether another text is needed."""
    inputs: Inputs
    """What the files hold: a worker that keeps a model takes no other for it."""


@partial(kept, only_last=True)
def _opened(job: Job, device: str) -> Passes:
    model = cast_blocks(load_model(job.checkpoint, device=device), job.precision)
    architecture = architecture_of(model)
    return Passes(
        model,
        job.material.text(architecture, np.array(job.sequences, dtype=np.int64)),
        reference=job.material.reference(architecture) if job.reference else None,
        batch=job.batch,
    )


def removed(job: Job, task: Removal, *, device: str) -> Arrays:
    """Return the losses of a task, computed on a device."""
    with matmul_precision(job.precision):
        return {"losses": compute(task, _opened(job, device))}


def deviation(checkpoint: Path, material: Material, sweep: Sweep, device: str) -> float:
    """Return the largest difference from float32 over a sample of heads and sequences."""
    few = np.arange(min(SAMPLE_SEQUENCES, len(material)))
    losses = []
    for precision in ("float32", sweep.precision):
        model = cast_blocks(load_model(checkpoint, device=device), precision)
        with matmul_precision(precision):
            architecture = architecture_of(model)
            n_layers, n_heads = architecture.n_layers, architecture.n_heads
            picked = np.linspace(0, n_layers * n_heads - 1, SAMPLE_HEADS).astype(int)
            removed = [
                single_heads(layer, [head])[0]
                for layer, head in (divmod(int(index), n_heads) for index in np.unique(picked))
            ]
            found = Passes(model, material.text(architecture, few)).run([(), *removed])
            losses.append(found[1:] - found[0])
    return float((losses[0] - losses[1]).abs().max())


def ablated_sequences(
    sweep: Sweep, n_sequences: int, attribution: Path | None, state: str
) -> NDArray[np.int64]:
    """Return which sequences are ablated: all, or those that a control variate needs.

    Raises
    ------
    AblationError
        The attribution that decides is not given, or is that of another text.
    """
    if sweep.estimator == "exact":
        return np.arange(n_sequences)
    if attribution is None:
        msg = (
            "sweep.estimator control_variate chooses sequences by their attribution and none was "
            "given. Give --attribution, or take sweep.estimator exact."
        )
        raise AblationError(msg)
    subset = subset_of(sweep, read_attribution(attribution, state), state)
    if subset.n != n_sequences:
        msg = (
            f"{attribution} is of {subset.n} sequences, the evaluated text has {n_sequences}. "
            "Run dvc repro attribution."
        )
        raise AblationError(msg)
    return subset.sequences


def ablated(
    sweep: Sweep,
    state: State,
    *,
    checkpoint: Path,
    material: Material,
    sequences: NDArray[np.int64],
    scratch: Path,
    on: Sequence[str],
    size: NDArray[np.float64] | None = None,
) -> tuple[list[Effects], dict[str, str]]:
    """Remove what a sweep names from one checkpoint, but for what was finished before.

    Parameters
    ----------
    state
        The checkpoint as its effects name it.
    checkpoint
        Its folder.
    material, sequences
        What the model reads, and which of it.
    scratch
        Folder of finished shards.
    on
        Devices.
    size : (n_layers, n_heads)
        How much each head writes.
    """
    n_layers, n_heads = shape_of(checkpoint)
    tasks = plan(sweep, n_layers=n_layers, n_heads=n_heads)
    needs_reference = any(task.needs_reference for task in tasks)
    inputs = Inputs(
        weights=fingerprint(checkpoint),
        tokens=material.digest(sequences),
        reference=material.reference_digest() if needs_reference else "",
        precision=sweep.precision,
        device=torch.device(on[0]).type,
    )
    folder = scratch / state.name
    shards = Shards(store(folder, raises=AblationError), inputs, n_sequences=len(sequences))
    job = Job(
        checkpoint,
        material,
        tuple(sequences.tolist()),
        sweep.precision,
        None if sweep.batch == "auto" else sweep.batch,
        needs_reference,
        inputs,
    )
    with only_one(folder / "lock", f"another run works in {folder}; waiting for it to end"):
        shards.store.sweep_up()
        todo = shards.missing(tasks)
        if len(todo) < len(tasks):
            cli.log.info("%d of %d shards were finished before", len(tasks) - len(todo), len(tasks))
        label = f"{checkpoint.name} on {', '.join(on)}"
        shards.store.fill(todo, partial(removed, job), on=on, label=label)
        provenance = {
            "precision": sweep.precision,
            "weights_sha256": inputs.weights,
            "tokens_sha256": material.source(),
            "device": inputs.device,
            "torch": torch.__version__,
        }
        if sweep.precision != "float32":
            largest = deviation(checkpoint, material, sweep, on[0])
            cli.log.info("%s differs from float32 by up to %.2g nats", sweep.precision, largest)
            provenance["largest_deviation_nats"] = f"{largest:.3g}"
        parts = assemble(tasks, shards.read, state=state, sequences=sequences, size=size)
        return parts, provenance


def _run(args: argparse.Namespace) -> None:
    settings = load(args.params)
    exposure, size = None, None
    if args.attribution is not None:
        exposure, size = "size", read_attribution(args.attribution, args.state).size.mean(axis=0)
    material = Tokens(args.tokens, args.reference, args.checkpoint)
    parts, provenance = ablated(
        settings.sweep,
        State("heads", args.state, settings.model.position(args.state), UNIT, exposure),
        checkpoint=args.checkpoint,
        material=material,
        sequences=ablated_sequences(settings.sweep, len(material), args.attribution, args.state),
        size=size,
        scratch=args.scratch,
        on=where_it_runs(devices, args.device),
    )
    write_effects(args.out, parts, provenance=provenance)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the stage."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    parser = cli.parser(__doc__)
    parser.add_argument("--checkpoint", type=Path, required=True, help="folder of one checkpoint")
    parser.add_argument("--state", required=True, help="its name")
    parser.add_argument("--tokens", type=Path, required=True, help="the evaluated text (.npy)")
    parser.add_argument("--reference", type=Path, help="another text, for means and resampling")
    parser.add_argument(
        "--attribution",
        type=Path,
        help="how much each head writes; which sequences a control variate ablates (.parquet)",
    )
    parser.add_argument("--scratch", type=Path, required=True, help="folder of finished shards")
    parser.add_argument("--out", type=Path, required=True, help="effects table (.parquet)")
    parser.add_argument("--params", type=Path, default=Path(PARAMS_FILE))
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda:0, cuda:0,cuda:1")
    return cli.run(parser, _run, argv)


if __name__ == "__main__":
    raise SystemExit(main())
