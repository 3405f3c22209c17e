"""Train a small GPT-NeoX, the architecture of Pythia, and keep checkpoints in the Hub's layout.

A training that was killed goes on from its last saved state and ends with the same bytes: the
batch of a step follows from seed and step alone, nothing is dropped out, and the number of threads
is fixed. Another processor or another PyTorch rounds differently and gives another model.
"""

import copy
import fcntl
import hashlib
import io
import json
import logging
import math
import pickle
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from safetensors.torch import save as serialized
from tokenizers import Tokenizer
from torch.utils import deterministic
from tqdm import tqdm
from transformers import GPTNeoXConfig, GPTNeoXForCausalLM

from stages.base.errors import CheckpointError
from stages.base.files import atomic_folder, atomic_path, write_text
from stages.inputs.mini import tokenizer as tokenizers
from stages.inputs.settings import MiniModel, MiniTraining

logger = logging.getLogger("stages")

STATE_FILE = "state.pt"
LOG_FILE = "train_log.csv"
WEIGHTS_FILE = "model.safetensors"
PUBLISHED_NAMES = {"lm_head.weight": "embed_out.weight"}
"""What transformers 5 calls otherwise than the published files, which it renames as it reads."""
DAMAGED = (RuntimeError, ValueError, KeyError, EOFError, OSError, pickle.UnpicklingError)
"""What reading a saved state raises whose bytes are not those that were written."""
_HELDOUT_BATCH = 32

Tokens = npt.NDArray[np.int32]
LogRow = tuple[int, float, float]
"""Step, loss of its batch before the step was made, held-out loss after it (nan: not taken)."""


@dataclass(frozen=True)
class Material:
    """What a training reads, as tokens."""

    tokenizer: Tokenizer
    train: Tokens
    """shape (n_tokens,)"""
    heldout: Tokens
    """shape (n_sequences, seq_len)"""


def configuration(settings: MiniTraining) -> GPTNeoXConfig:
    """Return Pythia's configuration at another size, half precision of checkpoints included."""
    return GPTNeoXConfig(
        architectures=["GPTNeoXForCausalLM"],
        vocab_size=settings.vocab_size,
        hidden_size=settings.hidden_size,
        num_hidden_layers=settings.n_layers,
        num_attention_heads=settings.n_heads,
        intermediate_size=settings.intermediate_size,
        max_position_embeddings=settings.seq_len,
        rope_parameters={
            "rope_type": "default",
            "rope_theta": 10000,
            "partial_rotary_factor": 0.25,
        },
        use_parallel_residual=True,
        tie_word_embeddings=False,
        bos_token_id=0,
        eos_token_id=0,
        use_cache=False,
        dtype="float16",
    )


def learning_rate(step: int, settings: MiniTraining) -> float:
    """Return the rate of a step, counted from 0: linear warm-up, then half a cosine.

    The last step's rate is `final_fraction` of the highest.
    """
    if step < settings.warmup_steps:
        return settings.learning_rate * (step + 1) / settings.warmup_steps
    length = max(settings.steps - 1 - settings.warmup_steps, 1)
    cosine = 0.5 * (1 + math.cos(math.pi * (step - settings.warmup_steps) / length))
    return settings.learning_rate * (
        settings.final_fraction + (1 - settings.final_fraction) * cosine
    )


def batch(tokens: Tokens, step: int, settings: MiniTraining) -> torch.Tensor:
    """Return the windows of a step, counted from 0; each epoch has an order of its own.

    A window has one token more than a sequence: every position of the sequence has a next token.

    Returns
    -------
    Tensor
        int64, shape (batch, seq + 1)
    """
    width = settings.seq_len + 1
    windows = tokens[: len(tokens) // width * width].reshape(-1, width)
    per_epoch = len(windows) // settings.batch_size
    if per_epoch == 0:
        msg = (
            f"the corpus has {len(tokens)} tokens to train on, one batch needs "
            f"{settings.batch_size * width}. Name more packages in conf/model/pythia-mini.yaml."
        )
        raise CheckpointError(msg)
    epoch, place = divmod(step, per_epoch)
    order = np.random.default_rng([settings.seed, epoch]).permutation(len(windows))
    chosen = order[place * settings.batch_size : (place + 1) * settings.batch_size]
    return torch.from_numpy(windows[chosen].astype(np.int64))


@torch.no_grad()
def heldout_loss(model: GPTNeoXForCausalLM, sequences: Tokens) -> float:
    """Return the mean cross-entropy over sequences, in nats per predicted token."""
    losses = []
    for start in range(0, len(sequences), _HELDOUT_BATCH):
        ids = torch.from_numpy(sequences[start : start + _HELDOUT_BATCH].astype(np.int64))
        logits = model(input_ids=ids).logits[:, :-1]  # (batch, seq - 1, vocab)
        each = F.cross_entropy(logits.transpose(1, 2), ids[:, 1:], reduction="none")
        losses.append(each.double().mean(dim=1))
    return float(torch.cat(losses).mean())


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


@contextmanager
def alone(scratch: Path) -> Iterator[None]:
    """Hold the scratch folder, waiting for who holds it.

    DVC leaves a stage running when it is itself killed, and starts another beside it.
    """
    scratch.mkdir(parents=True, exist_ok=True)
    # Held as long as the file is open; a killed process lets go by itself.
    with (scratch / "lock").open("a") as held:
        try:
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            logger.info("another run trains in %s; waiting for it to end", scratch)
            fcntl.flock(held, fcntl.LOCK_EX)
        yield


def key_of(model: MiniModel, material: Material) -> str:
    """Name a training by all that decides its bytes; another name finds no state to go on from."""
    decides = {
        "train": model.train.model_dump(exclude={"save_every"}),
        "checkpoints": model.steps,
        "tokenizer": material.tokenizer.to_str(),
        "tokens": hashlib.sha256(material.train.tobytes()).hexdigest(),
        "heldout": hashlib.sha256(material.heldout.tobytes()).hexdigest(),
        "torch": torch.__version__,
    }
    return hashlib.sha256(json.dumps(decides, sort_keys=True).encode()).hexdigest()[:16]


def train(model: MiniModel, material: Material, *, scratch: Path) -> Path:
    """Train, or go on training, and return the folder that holds checkpoints and log.

    Parameters
    ----------
    model
        Recipe and checkpoints.
    material
        The text.
    scratch
        A folder for unfinished work, which may hold some of an earlier run. The caller holds it
        (:func:`alone`) until it has taken what it needs.

    Raises
    ------
    CheckpointError
        The loss is not finite or the text is too short.
    """
    folder = scratch / key_of(model, material)
    scratch.mkdir(parents=True, exist_ok=True)
    with reproducible(model.train.threads):
        for other in scratch.iterdir():
            # What other settings left unfinished will not be asked for again.
            if other.is_dir() and other != folder:
                shutil.rmtree(other)
        folder.mkdir(exist_ok=True)
        _steps(model, material, folder)
    return folder


def _steps(model: MiniModel, material: Material, folder: Path) -> None:
    settings = model.train
    network, optimizer = _fresh(settings)
    try:
        start, log = _resume(folder / STATE_FILE, network, optimizer)
    except DAMAGED as error:
        reason = " ".join(str(error).split())[:200]
        logger.warning("%s is damaged (%s): training begins anew", folder / STATE_FILE, reason)
        network, optimizer = _fresh(settings)
        start, log = 0, []
    last = model.steps[-1]
    network.train()
    with tqdm(
        total=last, initial=start, desc=f"train {model.name}", unit="step", mininterval=1
    ) as progress:
        if start == 0 and model.steps[0] == 0:
            log.append((0, math.nan, _checkpoint(network, material, folder / "step0")))
        for step in range(start + 1, last + 1):
            loss = _step(network, optimizer, batch(material.train, step - 1, settings), step, model)
            held = math.nan
            if step in model.steps:
                held = _checkpoint(network, material, folder / f"step{step}")
            log.append((step, loss, held))
            progress.update()
            progress.set_postfix(loss=f"{loss:.3f}", refresh=False)
            if step % settings.save_every == 0 or step == last:
                _save(folder / STATE_FILE, step, network, optimizer, log)
    lines = [f"{step},{_shown(loss)},{_shown(held)}" for step, loss, held in log]
    header = "step,train_loss_nats,heldout_loss_nats"
    write_text(folder / LOG_FILE, "\n".join([header, *lines]) + "\n")


def _shown(value: float) -> str:
    return "" if math.isnan(value) else f"{value:.17g}"


def _fresh(settings: MiniTraining) -> tuple[GPTNeoXForCausalLM, torch.optim.AdamW]:
    # The library draws the weights from the global generator; it is put back as it was.
    with torch.random.fork_rng():
        torch.manual_seed(settings.seed)
        network = GPTNeoXForCausalLM(configuration(settings))
    matrices = [weight for weight in network.parameters() if weight.ndim > 1]
    vectors = [weight for weight in network.parameters() if weight.ndim <= 1]
    optimizer = torch.optim.AdamW(
        [
            {"params": matrices, "weight_decay": settings.weight_decay},
            # Biases and layer norms are not decayed, as in Pythia.
            {"params": vectors, "weight_decay": 0.0},
        ],
        lr=settings.learning_rate,
        betas=(settings.betas[0], settings.betas[1]),
        fused=True,
    )
    return network, optimizer


def _step(
    network: GPTNeoXForCausalLM,
    optimizer: torch.optim.AdamW,
    windows: torch.Tensor,
    step: int,
    model: MiniModel,
) -> float:
    for group in optimizer.param_groups:
        group["lr"] = learning_rate(step - 1, model.train)
    logits = network(input_ids=windows[:, :-1]).logits  # (batch, seq, vocab)
    loss = F.cross_entropy(logits.flatten(0, 1), windows[:, 1:].flatten())
    value = float(loss.detach())
    if not math.isfinite(value):
        msg = (
            f"the loss of step {step} of {model.name} is {value}. "
            "Lower train.learning_rate in conf/model/."
        )
        raise CheckpointError(msg)
    loss.backward()  # type: ignore[no-untyped-call]
    torch.nn.utils.clip_grad_norm_(network.parameters(), model.train.clip_norm)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return value


def _resume(
    path: Path, network: GPTNeoXForCausalLM, optimizer: torch.optim.AdamW
) -> tuple[int, list[LogRow]]:
    """Take in the saved state if there is one, and return the steps that were made."""
    if not path.exists():
        return 0, []
    state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    network.load_state_dict(state["model"])
    optimizer.load_state_dict(state["optimizer"])
    return int(state["step"]), [(int(a), float(b), float(c)) for a, b, c in state["log"]]


def _save(
    path: Path,
    step: int,
    network: GPTNeoXForCausalLM,
    optimizer: torch.optim.AdamW,
    log: list[LogRow],
) -> None:
    # No generator is saved: the order of the text follows from the seed and the step, and nothing
    # else is drawn.
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


def _checkpoint(network: GPTNeoXForCausalLM, material: Material, folder: Path) -> float:
    """Write one folder of the Hub's layout and return the held-out loss of what it holds."""
    kept = copy.deepcopy(network).half()  # type: ignore[no-untyped-call]
    weights = {
        PUBLISHED_NAMES.get(name, name): weight.contiguous()
        for name, weight in kept.state_dict().items()
    }
    # Of a run that was killed after its last saved state it replaces the same bytes.
    with atomic_folder(folder) as fresh:
        (fresh / WEIGHTS_FILE).write_bytes(serialized(weights, metadata={"format": "pt"}))
        write_text(fresh / "config.json", network.config.to_json_string())
        tokenizers.save(material.tokenizer, fresh)
    return heldout_loss(kept.float().eval(), material.heldout)
