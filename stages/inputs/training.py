"""Train a small model step by step, so that a training that was killed ends with the same bytes.

What a step reads follows from the seed and the step alone, nothing is dropped out, and the number
of threads is fixed. Another processor or another PyTorch rounds differently and gives another
model.
"""

import io
import logging
import math
import pickle
import shutil
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import deterministic
from tqdm import tqdm

from stages.base.errors import CheckpointError
from stages.base.files import atomic_folder, atomic_path, only_one, write_text
from stages.inputs.settings import Recipe

logger = logging.getLogger("stages")

STATE_FILE = "state.pt"
LOG_FILE = "train_log.csv"
WEIGHTS_FILE = "model.safetensors"
DAMAGED = (RuntimeError, ValueError, KeyError, EOFError, OSError, pickle.UnpicklingError)
"""What reading a saved state raises whose bytes are not those that were written."""

LogRow = tuple[int, float, float]
"""Step, loss of its batch before the step was made, held-out loss after it (nan: not taken)."""


class Training(ABC):
    """What is trained: the model, what a step reads, and how a checkpoint is kept."""

    name: str
    recipe: Recipe
    steps: Sequence[int]
    """At which a checkpoint is kept."""

    @abstractmethod
    def network(self) -> nn.Module:
        """Return the model as drawn from the global generator."""

    @abstractmethod
    def loss(self, network: nn.Module, step: int) -> Tensor:
        """Return the loss of the batch of a step, counted from 0."""

    @abstractmethod
    def keep(self, network: nn.Module, folder: Path) -> float:
        """Write a checkpoint and return the held-out loss of what it holds."""


def learning_rate(step: int, recipe: Recipe) -> float:
    """Return the rate of a step, counted from 0: linear warm-up, then half a cosine.

    The last step's rate is `final_fraction` of the highest.
    """
    if step < recipe.warmup_steps:
        return recipe.learning_rate * (step + 1) / recipe.warmup_steps
    length = max(recipe.steps - 1 - recipe.warmup_steps, 1)
    cosine = 0.5 * (1 + math.cos(math.pi * (step - recipe.warmup_steps) / length))
    return recipe.learning_rate * (recipe.final_fraction + (1 - recipe.final_fraction) * cosine)


@contextmanager
def reproducible(threads: int) -> Iterator[None]:
    """Fix the number of threads and refuse operations that give other sums each time."""
    before = (
        torch.get_num_threads(),
        torch.are_deterministic_algorithms_enabled(),
        deterministic.fill_uninitialized_memory,  # type: ignore[attr-defined]
    )
    torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(True)  # noqa: FBT003 - its only spelling
    # Only hides reads of memory that nobody wrote, at the price of writing all of it.
    deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    try:
        yield
    finally:
        torch.set_num_threads(before[0])
        torch.use_deterministic_algorithms(before[1])
        deterministic.fill_uninitialized_memory = before[2]  # type: ignore[attr-defined]


def make(
    training: Training,
    key: str,
    *,
    out: Path,
    scratch: Path,
    beside: Callable[[Path], None] = lambda _: None,
) -> None:
    """Train, or go on training, and put folder `out` in place, whole or not at all.

    Parameters
    ----------
    training
        What is trained.
    key
        Names all that decides its bytes; another key finds no state to go on from.
    out
        Gets ``step<N>/`` and ``train_log.csv``.
    scratch
        A folder for unfinished work, which may hold some of an earlier run.
    beside
        Writes into the folder what else belongs there.

    Raises
    ------
    CheckpointError
        The loss is not finite.
    """
    busy = f"another run trains in {scratch}; waiting for it to end"
    with only_one(scratch / "lock", busy), reproducible(training.recipe.threads):
        folder = scratch / key
        for other in scratch.iterdir():
            # What other settings left unfinished will not be asked for again.
            if other.is_dir() and other != folder:
                shutil.rmtree(other)
        folder.mkdir(exist_ok=True)
        _steps(training, folder)
        with atomic_folder(out) as fresh:
            for step in training.steps:
                shutil.copytree(folder / f"step{step}", fresh / f"step{step}")
            shutil.copyfile(folder / LOG_FILE, fresh / LOG_FILE)
            beside(fresh)
        shutil.rmtree(folder)


def _steps(training: Training, folder: Path) -> None:
    recipe = training.recipe
    network, optimizer = _fresh(training)
    try:
        start, log = _resume(folder / STATE_FILE, network, optimizer)
    except DAMAGED as error:
        reason = " ".join(str(error).split())[:200]
        logger.warning("%s is damaged (%s): training begins anew", folder / STATE_FILE, reason)
        network, optimizer = _fresh(training)
        start, log = 0, []
    last = training.steps[-1]
    network.train()
    with tqdm(
        total=last, initial=start, desc=f"train {training.name}", unit="step", mininterval=1
    ) as progress:
        if start == 0 and training.steps[0] == 0:
            log.append((0, math.nan, training.keep(network, folder / "step0")))
        for step in range(start + 1, last + 1):
            loss = _step(training, network, optimizer, step)
            held = math.nan
            if step in training.steps:
                held = training.keep(network, folder / f"step{step}")
            log.append((step, loss, held))
            progress.update()
            progress.set_postfix(loss=f"{loss:.3f}", refresh=False)
            if step % recipe.save_every == 0 or step == last:
                _save(folder / STATE_FILE, step, network, optimizer, log)
    lines = [f"{step},{_shown(loss)},{_shown(held)}" for step, loss, held in log]
    header = "step,train_loss_nats,heldout_loss_nats"
    write_text(folder / LOG_FILE, "\n".join([header, *lines]) + "\n")


def _shown(value: float) -> str:
    return "" if math.isnan(value) else f"{value:.17g}"


def _fresh(training: Training) -> tuple[nn.Module, torch.optim.AdamW]:
    # The library draws the weights from the global generator; it is put back as it was.
    with torch.random.fork_rng():
        torch.manual_seed(training.recipe.seed)
        network = training.network()
    recipe = training.recipe
    matrices = [weight for weight in network.parameters() if weight.ndim > 1]
    vectors = [weight for weight in network.parameters() if weight.ndim <= 1]
    optimizer = torch.optim.AdamW(
        [
            {"params": matrices, "weight_decay": recipe.weight_decay},
            # Biases and layer norms are not decayed, as in Pythia.
            {"params": vectors, "weight_decay": 0.0},
        ],
        lr=recipe.learning_rate,
        betas=(recipe.betas[0], recipe.betas[1]),
        fused=True,
    )
    return network, optimizer


def _step(training: Training, network: nn.Module, optimizer: torch.optim.AdamW, step: int) -> float:
    recipe = training.recipe
    for group in optimizer.param_groups:
        group["lr"] = learning_rate(step - 1, recipe)
    loss = training.loss(network, step - 1)
    value = float(loss.detach())
    if not math.isfinite(value):
        msg = (
            f"the loss of step {step} of {training.name} is {value}. "
            "Lower train.learning_rate in conf/."
        )
        raise CheckpointError(msg)
    loss.backward()  # type: ignore[no-untyped-call]
    torch.nn.utils.clip_grad_norm_(network.parameters(), recipe.clip_norm)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return value


def _resume(
    path: Path, network: nn.Module, optimizer: torch.optim.AdamW
) -> tuple[int, list[LogRow]]:
    """Take in the saved state if there is one, and return the steps that were made."""
    if not path.exists():
        return 0, []
    state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    network.load_state_dict(state["model"])
    optimizer.load_state_dict(state["optimizer"])
    return int(state["step"]), [(int(a), float(b), float(c)) for a, b, c in state["log"]]


def _save(
    path: Path, step: int, network: nn.Module, optimizer: torch.optim.AdamW, log: list[LogRow]
) -> None:
    # No generator is saved: what a step reads follows from the seed and the step, and nothing else
    # is drawn.
    state = {
        "step": step,
        "model": network.state_dict(),
        "optimizer": optimizer.state_dict(),
        "log": log,
    }
    # By way of memory: on a full disk torch says neither which file nor why.
    content = io.BytesIO()
    torch.save(state, content)
    with atomic_path(path) as temporary:
        temporary.write_bytes(content.getbuffer())
