"""Remove every head of one checkpoint in turn and keep what each sequence of the text then costs.

Resumable: what is finished lies in the scratch folder. Several GPUs are used by one process each.
"""

import argparse
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import multiprocessing as processes
from tqdm import tqdm

from stages.base import cli
from stages.base.errors import AblationError, StageError
from stages.base.settings import PARAMS_FILE, load
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
    lock,
    plan,
    shares,
    write_effects,
)
from stages.inputs.material import Material, Tokens
from stages.measurement.effects import Effects, State
from stages.models.architectures import architecture_of
from stages.models.devices import cast_blocks, devices, matmul_precision
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
    sequences: NDArray[np.int64]
    """Which of the evaluated sequences."""
    sweep: Sweep
    shards: Shards
    todo: list[Removal]
    device: str
    position: int


def work(job: Job) -> None:
    """Compute the shards of a job on its device, each written as soon as it is finished."""
    model = cast_blocks(load_model(job.checkpoint, device=job.device), job.sweep.precision)
    architecture = architecture_of(model)
    text = job.material.text(architecture, job.sequences)
    needed = any(task.needs_reference for task in job.todo)
    total = sum(task.cost(architecture.n_layers) for task in job.todo) * len(text)
    with (
        matmul_precision(job.sweep.precision),
        tqdm(
            total=total,
            desc=f"{job.checkpoint.name} on {job.device}",
            position=job.position,
            bar_format="{desc}: {percentage:3.0f}%|{bar}| {elapsed} gone, {remaining} left",
        ) as bar,
    ):

        def told(done: float) -> None:
            bar.update(done)

        passes = Passes(
            model,
            text,
            reference=job.material.reference(architecture) if needed else None,
            batch=None if job.sweep.batch == "auto" else job.sweep.batch,
            progress=told,
        )
        for task in job.todo:
            job.shards.write(task, compute(task, passes))


def _in_process(job: Job, failures: Any) -> None:
    try:
        # Several CPU workers share the cores; a GPU's worker needs one.
        torch.set_num_threads(max(1, torch.get_num_threads() // 2))
        work(job)
    except StageError as error:
        failures.put(str(error))
        raise SystemExit(1) from None


def _work_everywhere(jobs: list[Job]) -> None:
    """Run one process a device, and stop with the first worker's error."""
    # Forked from a server that has imported everything and touched no GPU: a fresh start of each
    # worker would cost more than a small model's whole sweep.
    context = processes.get_context("forkserver")
    context.set_forkserver_preload(["stages.heads.ablate", "transformers.models.auto"])
    failures = context.SimpleQueue()
    running = [context.Process(target=_in_process, args=(job, failures)) for job in jobs]
    for process in running:
        process.start()
    try:
        while any(process.is_alive() for process in running):
            if any(process.exitcode not in (None, 0) for process in running):
                break
            time.sleep(0.1)
    finally:
        failed = [process for process in running if process.exitcode not in (None, 0)]
        for process in running:
            if process.is_alive():
                process.terminate()
            process.join()
    if failed:
        msg = (
            failures.get()
            if not failures.empty()
            else f"a worker ended with status {failed[0].exitcode}. Run again: it goes on."
        )
        raise AblationError(msg)


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


def _share(text: str) -> tuple[int, int]:
    try:
        index, count = (int(part) for part in text.split("/"))
    except ValueError:
        index, count = -1, 0
    if not 0 <= index < count:
        msg = f"{text!r} is no share; write i/n with i from 0 to n - 1, for example 0/2"
        raise argparse.ArgumentTypeError(msg)
    return index, count


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
    share: tuple[int, int] = (0, 1),
) -> tuple[list[Effects], dict[str, str]] | None:
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
    share
        i, n: only the i-th of n shares of the work.

    Returns
    -------
    effects, provenance
        Nothing while other shares are to come.
    """
    index, count = share
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
    shards = Shards(folder, inputs, n_sequences=len(sequences))
    with lock(folder, index, count):
        if count == 1:
            shards.sweep_up()
        mine = shares(tasks, index, count)
        todo = shards.missing(mine)
        if len(todo) < len(mine):
            cli.log.info("%d of %d shards were finished before", len(mine) - len(todo), len(mine))
        jobs = [
            Job(checkpoint, material, sequences, sweep, shards, part, device, position)
            for position, device in enumerate(on)
            if (part := shares(todo, position, len(on)))
        ]
        if len(jobs) == 1:
            work(jobs[0])
        elif jobs:
            _work_everywhere(jobs)
        if left := shards.missing(tasks):
            cli.log.info(
                "%d of %d shards are still to come from the other shares; no table is written",
                len(left),
                len(tasks),
            )
            return None
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
    found = ablated(
        settings.sweep,
        State("heads", args.state, settings.model.position(args.state), UNIT, exposure),
        checkpoint=args.checkpoint,
        material=material,
        sequences=ablated_sequences(settings.sweep, len(material), args.attribution, args.state),
        size=size,
        scratch=args.scratch,
        on=devices(args.device),
        share=args.shard,
    )
    if found is not None:
        parts, provenance = found
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
    parser.add_argument(
        "--shard", type=_share, default=(0, 1), help="i/n: only this share of the work"
    )
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda:0, cuda:0,cuda:1")
    return cli.run(parser, _run, argv)


if __name__ == "__main__":
    raise SystemExit(main())
