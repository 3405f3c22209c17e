"""Remove heads exactly, running only what their removal changes.

One baseline pass goes through the model block by block, over all sequences. At each block it has
the block's input, what every head writes, and the block's output; removing head h of block l
changes that output by ``(new_h - old_h) W_h`` (with a sequential residual, the block's MLP runs
again), so only the later blocks, the final norm and the unembedding are run, for several heads in
one batch. Nothing is approximated: the result is that of the full model up to rounding.

Losses of tokens are cross-entropies in nats in the model's precision; the loss of a sequence is
their mean over its seq - 1 predicted tokens, accumulated in float64. The last position predicts
nothing that is scored and, attention being causal, changes nothing before it: it is left out.
"""

import logging
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from threading import Lock
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stages.base.errors import AblationError
from stages.models.architecture import Architecture, architecture_of, linear, project, run_block
from stages.models.perturbation import AblationType, donors, noised, reference_mean

log = logging.getLogger("stages")

ENGINE_VERSION = 1
"""Raised when a change makes other numbers, so that finished shards are not mixed with new ones."""

Precision = Literal["float32", "tf32", "bf16"]

# Positions in one pass on a CPU: at 1,000, a block's activations stay in the second-level cache
# of a small model and the products of a large one are as fast as they get.
CPU_POSITIONS = 1024
# On an accelerator: enough to fill it.
GPU_POSITIONS = 1 << 16
# Bytes of logits made at once, on a CPU (third-level cache) and on an accelerator.
CPU_LOGITS = 4 << 20
GPU_LOGITS = 1 << 30
MIN_LOGIT_ROWS = 256


@contextmanager
def matmul_precision(precision: Precision) -> Iterator[None]:
    """Set how float32 products are computed, and set it back."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest" if precision == "float32" else "high")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


def cast_blocks(model: nn.Module, precision: Precision) -> nn.Module:
    """Give a float32 model the weights of a precision, in place.

    In ``bf16`` the linear maps of the blocks are bfloat16; the residual stream, the norms and the
    unembedding stay float32, since a logit rounded to eight bits would drown the effects.
    """
    if precision == "bf16":
        for block in architecture_of(model).blocks:
            for part in block.modules():
                if isinstance(part, nn.Linear):
                    part.to(torch.bfloat16)
    return model


def check_tokens(tokens: Tensor, *, vocab_size: int, max_positions: int, name: str) -> None:
    """Stop at tokens that the model cannot read.

    Raises
    ------
    AblationError
        There is no sequence, one is too short to predict anything or too long for the model, or a
        token is not in the vocabulary.
    """
    if tokens.ndim != 2 or tokens.shape[0] == 0 or tokens.shape[1] < 2:
        msg = (
            f"the {name} tokens have the shape {tuple(tokens.shape)}: at least one sequence of two "
            "tokens is needed, as (sequences, tokens). Take a longer text or shorter sequences."
        )
        raise AblationError(msg)
    if tokens.shape[1] > max_positions:
        msg = (
            f"the {name} tokens come in sequences of {tokens.shape[1]}, the model has "
            f"{max_positions} positions. Cut the text into shorter sequences."
        )
        raise AblationError(msg)
    low, high = int(tokens.min()), int(tokens.max())
    if low < 0 or high >= vocab_size:
        msg = (
            f"the {name} tokens hold the id {high if high >= vocab_size else low}, the model's "
            f"vocabulary ends at {vocab_size - 1}: the tokenizer does not fit the vocabulary. "
            "Make the tokens with the tokenizer that lies beside the checkpoint."
        )
        raise AblationError(msg)


def logit_rows(weight: Tensor) -> int:
    """Return how many positions' logits are made at once with this unembedding."""
    budget = CPU_LOGITS if weight.device.type == "cpu" else GPU_LOGITS
    return max(MIN_LOGIT_ROWS, budget // (weight.shape[0] * weight.element_size()))


def token_losses(architecture: Architecture, hidden: Tensor, targets: Tensor) -> Tensor:
    """Return the cross-entropy in nats of each target, from the last block's output.

    Logits are made some rows at a time, so that at no time more than one small piece of the
    (positions, vocabulary) table exists.

    Parameters
    ----------
    architecture
        The model.
    hidden
        Output of the last block: (..., hidden).
    targets
        Token ids: (...).

    Returns
    -------
    Tensor
        (...), in the precision of the unembedding.
    """
    weight, bias = architecture.unembedding()
    rows = architecture.normalise(hidden).reshape(-1, hidden.shape[-1])
    flat = targets.reshape(-1)
    step = logit_rows(weight)
    losses = torch.empty(len(flat), dtype=weight.dtype, device=rows.device)
    for start in range(0, len(flat), step):
        part = slice(start, start + step)
        logits = linear(rows[part], weight, bias)
        losses[part] = F.cross_entropy(logits, flat[part], reduction="none")
    return losses.view(targets.shape)


class Engine:
    """A model, a text, and the baseline pass through it, one block at a time, upwards only.

    Parameters
    ----------
    model
        A causal language model of a known architecture, in evaluation mode.
    tokens
        The evaluated text: (sequences, seq), integers.
    reference
        A disjoint text of the same sequence length, for MEAN, MEAN_POSITIONAL and RESAMPLE.
    batch
        Pairs of a unit and a sequence in one forward pass; none: fitted to the device.
    progress
        Told of finished work, in blocks run per sequence.
    """

    def __init__(
        self,
        model: nn.Module,
        tokens: Tensor,
        *,
        reference: Tensor | None = None,
        batch: int | None = None,
        progress: Callable[[float], None] | None = None,
    ) -> None:
        self.architecture: Architecture = architecture_of(model)
        self.device = next(model.parameters()).device
        limits = {
            "vocab_size": self.architecture.vocab_size,
            "max_positions": self.architecture.max_positions,
        }
        check_tokens(tokens, **limits, name="evaluation")
        self._inputs = tokens[:, :-1].long()
        self._targets = tokens[:, 1:].long()
        self._reference: Tensor | None = None
        if reference is not None:
            check_tokens(reference, **limits, name="reference")
            if reference.shape[1] != tokens.shape[1]:
                msg = (
                    f"the reference tokens come in sequences of {reference.shape[1]}, the "
                    f"evaluation tokens in sequences of {tokens.shape[1]}. Make both the same."
                )
                raise AblationError(msg)
            self._reference = reference[:, :-1].long()
        self.n_sequences, self._seq = self._inputs.shape
        self.batch = batch or self._fitting_batch()
        self.workers = torch.get_num_threads() if self.device.type == "cpu" else 1
        self._guard = Lock()
        self._progress = progress or (lambda _: None)
        self._text = _Pass(self, self._inputs)
        self._donor = None if self._reference is None else _Pass(self, self._reference)

    @torch.inference_mode()
    def baseline(self) -> Tensor:
        """Return the loss of each sequence of the whole model: (sequences,), float64."""
        self._text.go_to(self.architecture.n_layers)
        losses = self._losses(
            self.architecture.n_layers,
            1,
            lambda _, sequences: self._text.hidden(sequences)[None],
        )
        return losses[0]

    @torch.inference_mode()
    def without_heads(
        self,
        layer: int,
        heads: Sequence[int],
        kind: AblationType,
        *,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """Return the loss of each sequence with each of these heads removed in turn.

        Parameters
        ----------
        layer, heads
            Zero-based. Layers may only be asked for in ascending order.
        kind
            What the head writes instead.
        generator
            Draws the donors of RESAMPLE, on the CPU.

        Returns
        -------
        Tensor
            (heads, sequences), float64.
        """
        self._check_layer(layer)
        if bad := [head for head in heads if not 0 <= head < self.architecture.n_heads]:
            msg = (
                f"head {bad[0]} of layer {layer} does not exist: the model has the heads 0 to "
                f"{self.architecture.n_heads - 1}. Change sweep.heads."
            )
            raise AblationError(msg)
        self._text.go_to(layer)
        instead = self._instead(layer, kind, generator)
        block = self.architecture.blocks[layer]
        weight, _ = self.architecture.projection(block)
        d_head = self.architecture.d_head
        chosen = list(heads)

        def start(units: slice, sequences: slice) -> Tensor:
            written = self._text.heads(sequences)  # (sequences, seq, n_heads * d_head)
            new = instead(sequences)
            # What is added to what the heads write; its sign is kept out of ZERO's product.
            change, sign = (written, -1.0) if new is None else (new - written, 1.0)
            before = (
                self._text.output(sequences)
                if self.architecture.parallel_residual
                else self._text.attention(sequences)
            )
            group = chosen[units]
            flat = before.reshape(-1, before.shape[-1])
            after = before.new_empty(len(group), *before.shape)
            for index, head in enumerate(group):
                columns = slice(head * d_head, (head + 1) * d_head)
                part = change[..., columns].reshape(-1, d_head).to(weight.dtype)
                if weight.dtype == flat.dtype:
                    torch.addmm(
                        flat,
                        part,
                        weight[:, columns].T,
                        alpha=sign,
                        out=after[index].view_as(flat),
                    )
                else:
                    moved = linear(part, weight[:, columns], None)
                    torch.add(flat, moved, alpha=sign, out=after[index].view_as(flat))
            if self.architecture.parallel_residual:
                return after
            hidden = self._text.hidden(sequences).expand_as(after).flatten(0, 1)
            return self.architecture.finish(block, hidden, after.flatten(0, 1)).view_as(after)

        return self._losses(layer + 1, len(chosen), start)

    @torch.inference_mode()
    def without_layer(self, layer: int) -> Tensor:
        """Return the loss of each sequence with a whole block left out: (sequences,), float64.

        Attention and MLP write nothing, biases included: the block passes its input on. The
        companion zeroed every parameter of the block, which does the same.
        """
        self._check_layer(layer)
        self._text.go_to(layer)
        return self._losses(layer + 1, 1, lambda _, sequences: self._text.hidden(sequences)[None])[
            0
        ]

    @torch.inference_mode()
    def with_noise(self, layer: int, *, alpha: float, seed: int) -> Tensor:
        """Return the loss of each sequence with noise on a block's weights: (sequences,)."""
        self._check_layer(layer)
        self._text.go_to(layer)
        block = noised(self.architecture.blocks[layer], alpha=alpha, seed=seed)

        def start(_: slice, sequences: slice) -> Tensor:
            return run_block(self.architecture, block, self._text.hidden(sequences))[None]

        return self._losses(layer + 1, 1, start)[0]

    def _check_layer(self, layer: int) -> None:
        if not 0 <= layer < self.architecture.n_layers:
            msg = (
                f"layer {layer} does not exist: the model has the layers 0 to "
                f"{self.architecture.n_layers - 1}. Change sweep.heads."
            )
            raise AblationError(msg)

    def _instead(
        self, layer: int, kind: AblationType, generator: torch.Generator | None
    ) -> Callable[[slice], Tensor | None]:
        """Return what the heads write instead, for some sequences; none: nothing."""
        if not kind.needs_reference:
            return lambda _: None
        if self._donor is None:
            msg = (
                f"{kind.value} ablation needs a reference text and none was given. "
                "Give the reference tokens, or leave it out of sweep.perturbations."
            )
            raise AblationError(msg)
        self._donor.go_to(layer)
        if kind is AblationType.RESAMPLE:
            if generator is None:
                msg = "resample ablation draws sequences and no generator was given. Pass one."
                raise AblationError(msg)
            drawn = donors(self.n_sequences, self._donor.n_sequences, generator=generator)
            donor = self._donor
            return lambda sequences: donor.heads(drawn[sequences])
        mean = reference_mean(self._donor.all_heads(), kind).to(self.device)
        return lambda _: mean

    def _losses(self, layer: int, n_units: int, start: Callable[[slice, slice], Tensor]) -> Tensor:
        """Run the blocks from `layer` on for all pairs of a unit and a sequence.

        `start` gives the state that enters block `layer`: (units, sequences, seq, hidden). When
        memory runs out, the batch is halved and the work goes on.
        """
        losses = torch.empty(n_units, self.n_sequences, dtype=torch.float64)
        cost = self.architecture.n_layers - layer + 1
        side = max(1, self.batch // n_units)
        height = max(1, self.batch // side)
        pending = deque(
            (slice(unit, min(unit + height, n_units)), slice(first, first + side))
            for first in range(0, self.n_sequences, side)
            for unit in range(0, n_units, height)
        )

        def drain() -> None:
            while pending:
                try:
                    units, sequences = pending.popleft()
                except IndexError:  # another worker was faster
                    return
                sequences = slice(sequences.start, min(sequences.stop, self.n_sequences))
                size = (units.stop - units.start) * (sequences.stop - sequences.start)
                if size > self.batch:
                    pending.extendleft(_halves(units, sequences))
                    continue
                try:
                    losses[units, sequences] = self._pass(layer, start(units, sequences), sequences)
                except (torch.OutOfMemoryError, RuntimeError) as error:
                    if not _out_of_memory(error):
                        raise
                    self._halve(size)
                    pending.appendleft((units, sequences))
                else:
                    with self._guard:
                        self._progress(size * cost)

        self._everyone(drain, n_pieces=len(pending))
        return losses

    def _everyone(self, drain: Callable[[], None], *, n_pieces: int) -> None:
        """Let the workers empty a queue.

        On a CPU every worker has one core and pieces of its own. Sharing each product among the
        cores instead makes them wait for one another at every operation, which is slow with small
        models and ruinous on a busy machine, and the result would depend on their number.
        """
        if self.workers == 1 or n_pieces < self.workers:
            drain()
            return

        def alone() -> None:
            torch.set_num_threads(1)
            # The mode belongs to a thread.
            with torch.inference_mode():
                drain()

        before = torch.get_num_threads()
        try:
            with ThreadPoolExecutor(self.workers) as pool:
                for future in [pool.submit(alone) for _ in range(self.workers)]:
                    future.result()
        finally:
            torch.set_num_threads(before)

    def _pass(self, layer: int, state: Tensor, sequences: slice) -> Tensor:
        """Return the mean losses (units, sequences) from the state that enters block `layer`."""
        n_units, n_sequences = state.shape[:2]
        hidden = state.flatten(0, 1)
        for block in self.architecture.blocks[layer:]:
            hidden = run_block(self.architecture, block, hidden)
        targets = self._targets[sequences].to(self.device)
        targets = targets.expand(n_units, -1, -1).reshape(-1, self._seq)
        losses = token_losses(self.architecture, hidden, targets)
        return losses.double().mean(dim=-1).view(n_units, n_sequences).cpu()

    def _halve(self, tried: int) -> None:
        with self._guard:
            if tried > self.batch:  # another worker has halved it
                return
            if tried == 1:
                msg = (
                    f"one sequence of {self._seq} tokens does not fit into the memory of "
                    f"{self.device}. Take shorter sequences or another device."
                )
                raise AblationError(msg)
            self.batch = tried // 2
        log.info("out of memory at %d sequences in one pass; going on with %d", tried, self.batch)
        if self.device.type == "cuda":
            torch.cuda.empty_cache()

    def _fitting_batch(self) -> int:
        """Choose how many sequences go through the model at once.

        On a CPU the number follows from the shape alone, so that a run that goes on after an
        interruption makes the same batches and ends with the same bytes.
        """
        positions = CPU_POSITIONS
        if self.device.type == "cuda":
            free, _ = torch.cuda.mem_get_info(self.device)
            weight, _ = self.architecture.projection(self.architecture.blocks[0])
            # Input, output, query, key, value, their rotated copy, the MLP's inner state twice.
            row = 20 * weight.shape[0] * weight.element_size()
            positions = max(1, min(GPU_POSITIONS, int(free * 0.5) // row))
        return max(1, positions // self._seq)


class _Pass:
    """The baseline pass of one text: what enters the current block and what it makes of it."""

    def __init__(self, engine: Engine, tokens: Tensor) -> None:
        self._engine = engine
        self._tokens = tokens
        self.n_sequences = len(tokens)
        self._layer = -1
        self._hidden: Tensor | None = None
        self._heads: Tensor | None = None
        self._attention: Tensor | None = None
        self._output: Tensor | None = None

    def go_to(self, layer: int) -> None:
        """Advance to the block `layer`; n_layers: behind the last."""
        if layer < self._layer:
            msg = f"the baseline pass is at layer {self._layer} and cannot go back to {layer}."
            raise AblationError(msg)
        while self._layer < layer:
            self._advance()

    def hidden(self, sequences: slice | Tensor) -> Tensor:
        """Return what enters the current block: (sequences, seq, hidden)."""
        return self._get(self._hidden, sequences)

    def heads(self, sequences: slice | Tensor) -> Tensor:
        """Return what the heads of the current block write: (sequences, seq, n_heads * d_head)."""
        return self._get(self._heads, sequences)

    def attention(self, sequences: slice | Tensor) -> Tensor:
        """Return the output of the current block's projection: (sequences, seq, hidden)."""
        return self._get(self._attention, sequences)

    def output(self, sequences: slice | Tensor) -> Tensor:
        """Return what leaves the current block: (sequences, seq, hidden)."""
        return self._get(self._output, sequences)

    def all_heads(self) -> Tensor:
        """Return what the heads write in the whole text, where it is kept."""
        return self._there(self._heads)

    def _there(self, kept: Tensor | None) -> Tensor:
        if kept is None:
            msg = f"the baseline pass holds no such state at layer {self._layer}."
            raise AblationError(msg)
        return kept

    def _get(self, state: Tensor | None, sequences: slice | Tensor) -> Tensor:
        kept = self._there(state)
        index = sequences.to(kept.device) if isinstance(sequences, Tensor) else sequences
        return kept[index].to(self._engine.device)

    def _advance(self) -> None:
        """Enter the next block and run it once over the whole text, some sequences at a time."""
        engine, model, previous = self._engine, self._engine.architecture, self._output
        self._layer += 1
        block = model.blocks[self._layer] if self._layer < model.n_layers else None
        # What is kept may be larger than the device; the heads' batches never are.
        home = self._home()
        parts = [
            slice(start, start + engine.batch) for start in range(0, self.n_sequences, engine.batch)
        ]
        kept: dict[int, tuple[Tensor, ...]] = {}
        pending = deque(enumerate(parts))

        def drain() -> None:
            while pending:
                try:
                    index, part = pending.popleft()
                except IndexError:  # another worker was faster
                    return
                if previous is None:
                    hidden = model.embed(self._tokens[part].to(engine.device))
                else:
                    hidden = previous[part].to(engine.device)
                states = [hidden]
                if block is not None:
                    heads = model.heads(block, hidden)
                    attention = project(model, block, heads)
                    states += [heads, model.finish(block, hidden, attention)]
                    # With a parallel residual, only the output is needed.
                    states += [] if model.parallel_residual else [attention]
                kept[index] = tuple(state.to(home) for state in states)

        engine._everyone(drain, n_pieces=len(parts))
        joined = [
            torch.cat(pieces) for pieces in zip(*(kept[i] for i in sorted(kept)), strict=True)
        ]
        self._hidden, self._heads, self._output, self._attention = [*joined, None, None, None][:4]

    def _home(self) -> torch.device:
        """Keep the pass on the device if it takes less than a third of what is free there."""
        device = self._engine.device
        if device.type != "cuda":
            return device
        weight, _ = self._engine.architecture.projection(self._engine.architecture.blocks[0])
        free, _ = torch.cuda.mem_get_info(device)
        needed = 5 * self._tokens.numel() * weight.shape[0] * 4
        return device if needed < free / 3 else torch.device("cpu")


def _halves(units: slice, sequences: slice) -> list[tuple[slice, slice]]:
    """Split a batch in two: by sequences if it has several, else by units."""
    if sequences.stop - sequences.start > 1:
        middle = (sequences.start + sequences.stop) // 2
        return [
            (units, slice(sequences.start, middle)),
            (units, slice(middle, sequences.stop)),
        ]
    middle = (units.start + units.stop) // 2
    return [(slice(units.start, middle), sequences), (slice(middle, units.stop), sequences)]


def _out_of_memory(error: RuntimeError) -> bool:
    """Whether memory ran out, on an accelerator or (told by its text alone) on the CPU."""
    text = str(error)
    return isinstance(error, torch.OutOfMemoryError) or (
        "alloc" in text and "memory" in text.lower()
    )
