"""Run a model under interventions exactly, and only what each of them changes.

One baseline pass goes through the model block by block, over all sequences. At each block it has
the block's input, what every head writes, and the block's output; an intervention starts from there
at its first changed layer, so only later blocks, the final norm and the unembedding are run, for
several interventions in one batch. Taking heads out of block l changes its output by
``(new_h - old_h) W_h`` alone (with a sequential residual, the block's MLP runs again).
Interventions in several layers that begin alike share the way to where they part: of all pairs of
heads (a, b), the model without a runs once, and each pair only behind b. Where few positions are
scored, as of a cell with hidden genes, the last block is run for those alone. Nothing is
approximated: the result is that of the full model up to rounding.

What is read at the end is the loss of each sequence, or whatever an observer makes of the residual
stream behind some blocks. Losses of positions, in nats or squared bins as the family is measured
(:class:`~stages.models.architectures.base.Loss`), are in the model's precision; the loss of a
sequence is their mean over its scored positions, accumulated in float64.
"""

import logging
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from threading import Lock
from typing import Protocol

import torch
from torch import Tensor, nn

from stages.base.errors import AblationError
from stages.models.architectures import architecture_of
from stages.models.interventions import (
    AblationType,
    Block,
    Change,
    Heads,
    Intervention,
    Noise,
    Stream,
    donors,
    noised,
    reference_mean,
)
from stages.models.losses import SequenceLoss
from stages.models.positions import finish_at, run_at, states_at
from stages.models.text import Text, check_text

log = logging.getLogger("stages")

ENGINE_VERSION = 2
"""Raised when a change makes numbers that differ by more than rounding, so that finished shards are
not mixed with new ones."""

# Positions in one pass on a CPU: at 1,000, a block's activations stay in the second-level cache
# of a small model and the products of a large one are as fast as they get.
CPU_POSITIONS = 1024
# On an accelerator: enough to fill it.
GPU_POSITIONS = 1 << 16

_Changes = tuple[Change, ...]
_Plan = tuple[tuple[int, _Changes], ...]
"""Changes by layer, ascending."""
_Group = Sequence[tuple[int, _Plan]]
"""Numbers of interventions, each with what is still to be done."""


class Observer(Protocol):
    """Reads the residual stream behind some blocks. Several threads may call it at once."""

    @property
    def layers(self) -> Sequence[int]:
        """Behind which blocks, counted from 0; -1: behind the embedding."""

    def __call__(self, layer: int, hidden: Tensor, sequences: slice) -> Tensor:
        """Return what is kept, (n, sequences, ...), of the same shape at every layer.

        `hidden` is what leaves block `layer` in `n` variants of the model, for some sequences of
        the text: (n, sequences, seq, hidden).
        """


class Passes:
    """A model and a text, through which the model runs, intact and changed.

    Parameters
    ----------
    model
        Of a known family, in evaluation mode.
    text
        What it is measured on.
    reference
        Other text of the same sequence length, for MEAN, MEAN_POSITIONAL and RESAMPLE.
    batch
        Pairs of an intervention and a sequence in one forward pass; none: fitted to the device.
    progress
        Told of finished work, in blocks run per sequence.

    Raises
    ------
    AblationError
        A text is not one for this model.
    """

    def __init__(
        self,
        model: nn.Module,
        text: Text,
        *,
        reference: Text | None = None,
        batch: int | None = None,
        progress: Callable[[float], None] | None = None,
    ) -> None:
        self.architecture = architecture_of(model)
        self.device = next(model.parameters()).device
        self.text = text
        check_text(text, self.architecture, "evaluation")
        if reference is not None:
            check_text(reference, self.architecture, "reference")
            if reference.n_positions != text.n_positions:
                msg = (
                    f"the reference text comes in sequences of {reference.n_positions}, the "
                    f"evaluation text in sequences of {text.n_positions}. Make both the same."
                )
                raise AblationError(msg)
        self.n_sequences = len(text)
        self.batch = batch or self._fitting_batch()
        self.workers = torch.get_num_threads() if self.device.type == "cpu" else 1
        self._loss = SequenceLoss(self.architecture, text, self.device)
        self._scored = self._few_scored()
        self._guard = Lock()
        self._progress = progress or (lambda _: None)
        self._trunk = _Trunk(self, text, self._scored)
        self._reference = None if reference is None else _Reference(self, reference)

    @torch.inference_mode()
    def run(
        self, interventions: Sequence[Intervention], observer: Observer | None = None
    ) -> Tensor:
        """Run the model under each intervention, and return what is read at the end.

        Calls whose first changed layers ascend share one baseline pass; one that goes back, or has
        an observer, makes another.

        Parameters
        ----------
        interventions
            Each any number of changes, in any order; ``()`` is the intact model.
        observer
            What to read; none: the loss of each sequence.

        Returns
        -------
        Tensor
            On the CPU: losses, (interventions, sequences), float64; or what the observer kept,
            (interventions, sequences, layers, ...).

        Raises
        ------
        AblationError
            A layer or head does not exist, a reference text is needed, or memory does not suffice
            for one sequence.
        """
        plans = [self._plan(changes) for changes in interventions]
        watch: Observer = observer or self._loss
        self._check_layers(watch.layers, "an observer asks for")
        kept = _Kept(len(plans), self.n_sequences, watch)
        first = min((plan[0][0] for plan in plans if plan), default=self.architecture.n_layers)
        if observer is not None or first < self._trunk.layer:
            self._trunk = _Trunk(self, self.text, self._scored if observer is None else None)
        if self._reference is not None:
            self._reference.prepare(plans)
        self._branch(self._trunk, list(enumerate(plans)), kept)
        return kept.values() if observer is not None else kept.values()[:, :, 0]

    def baseline(self) -> Tensor:
        """Return the loss of each sequence of the intact model: (sequences,), float64."""
        return self.run([()])[0]

    def _plan(self, changes: Intervention) -> _Plan:
        by_layer: dict[int, list[Change]] = {}
        for change in changes:
            least = -1 if isinstance(change, Stream) else 0
            self._check_layers((change.layer,), "an intervention names", least)
            if isinstance(change, Heads):
                self._check_heads(change, changes)
            by_layer.setdefault(change.layer, []).append(change)
        return tuple((layer, tuple(by_layer[layer])) for layer in sorted(by_layer))

    def _check_layers(self, layers: Sequence[int], who: str, least: int = -1) -> None:
        if bad := [layer for layer in layers if not least <= layer < self.architecture.n_layers]:
            msg = (
                f"{who} layer {bad[0]}, which does not exist: the model has the layers 0 to "
                f"{self.architecture.n_layers - 1}."
            )
            raise AblationError(msg)

    def _check_heads(self, change: Heads, changes: Intervention) -> None:
        n_heads = self.architecture.n_heads
        of_layer = [
            head
            for other in changes
            if isinstance(other, Heads) and other.layer == change.layer
            for head in other.heads
        ]
        if twice := [head for head in change.heads if of_layer.count(head) > 1]:
            msg = f"head {twice[0]} of layer {change.layer} is taken out twice. Name it once."
            raise AblationError(msg)
        if bad := [head for head in change.heads if not 0 <= head < n_heads]:
            msg = (
                f"head {bad[0]} of layer {change.layer} does not exist: the model has the heads 0 "
                f"to {n_heads - 1}. Change sweep.heads."
            )
            raise AblationError(msg)
        if change.way.needs_reference and self._reference is None:
            msg = (
                f"{change.way.value} ablation needs a reference text and none was given. "
                "Give the reference tokens, or leave it out of sweep.perturbations."
            )
            raise AblationError(msg)

    def _branch(self, trunk: "_Trunk", group: _Group, kept: "_Kept") -> None:
        """Run a group of interventions that are all alike up to where `trunk` is."""
        by_layer: dict[int, dict[_Changes, list[tuple[int, _Plan]]]] = {}
        for index, plan in group:
            if plan:
                (layer, changes), *rest = plan
                by_layer.setdefault(layer, {}).setdefault(changes, []).append((index, tuple(rest)))
        # Where each stops being what the trunk is; behind the last block if it never does.
        until = {index: plan[0][0] if plan else self.architecture.n_layers for index, plan in group}
        watched = [
            layer
            for layer in kept.layers
            if trunk.layer <= layer and any(layer < end for end in until.values())
        ]
        for layer in sorted({*by_layer, *watched}):
            trunk.go_to(layer)
            if layer in watched:
                same = [index for index, end in until.items() if layer < end]
                self._read(trunk, same, kept)
            units: list[_Changes] = []
            numbers: list[list[int]] = []
            stems = []
            for changes, members in by_layer.get(layer, {}).items():
                if all(not rest for _, rest in members):
                    units.append(changes)
                    numbers.append([index for index, _ in members])
                else:
                    stems.append((changes, members))
            if units:
                self._forward(trunk, numbers, trunk.starts(units), kept)
            for changes, members in stems:
                self._branch(trunk.stem(changes), members, kept)

    def _read(self, trunk: "_Trunk", numbers: list[int], kept: "_Kept") -> None:
        """Keep what is read where the trunk is."""

        def start(_: slice, sequences: slice) -> Tensor:
            return trunk.output(sequences)[None]

        self._forward(trunk, [numbers], start, kept, last=trunk.layer)

    def _forward(
        self,
        trunk: "_Trunk",
        numbers: Sequence[Sequence[int]],
        start: Callable[[slice, slice], Tensor],
        kept: "_Kept",
        *,
        last: int | None = None,
    ) -> None:
        """Run the blocks behind a trunk, up to `last`, for all pairs of a unit and a sequence.

        `start` gives what leaves the trunk's block: (units, sequences, seq, hidden). What is read
        of unit i is kept for all `numbers[i]`. When memory runs out, the batch is halved and the
        work goes on.
        """
        model, layer = self.architecture, trunk.layer
        last = max((at for at in kept.layers if at >= layer), default=-2) if last is None else last
        if last < layer:
            return
        cost = last - layer + 1
        side = max(1, self.batch // len(numbers))
        height = max(1, self.batch // side)
        pending = deque(
            (slice(unit, min(unit + height, len(numbers))), slice(first, first + side))
            for unit in range(0, len(numbers), height)
            for first in range(0, self.n_sequences, side)
        )

        def piece(units: slice, sequences: slice) -> None:
            state = start(units, sequences)
            shape = state.shape
            attended = self._attended(self.text, sequences, len(state))
            for at in range(layer, last + 1):
                if at > layer:
                    flat, wanted = state.flatten(0, 1), trunk.read(at, sequences, len(state))
                    state = run_at(model, model.blocks[at], flat, wanted, attended).view(shape)
                if at in kept.layers:
                    kept.add(at, numbers[units], sequences, state)

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
                    piece(units, sequences)
                except (torch.OutOfMemoryError, RuntimeError) as error:
                    if not _out_of_memory(error):
                        raise
                    self._halve(size)
                    pending.appendleft((units, sequences))
                else:
                    with self._guard:
                        self._progress(size * cost)

        self._everyone(drain, n_pieces=len(pending))

    def _attended(self, text: Text, sequences: slice, copies: int = 1) -> Tensor | None:
        """Return which positions are no padding, once for each copy of the sequences."""
        if text.attended is None:
            return None
        seen = text.attended[sequences].to(self.device)
        return seen if copies == 1 else seen.repeat(copies, 1)

    def _few_scored(self) -> Tensor | None:
        """Return which positions are scored, (n_sequences, seq); none: most are."""
        scored = self.text.scored
        if scored is None or int(scored.sum(dim=1).max()) > self.text.n_positions // 2:
            return None
        return scored.to(self.device)

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

    def _halve(self, tried: int) -> None:
        with self._guard:
            if tried > self.batch:  # another worker has halved it
                return
            if tried == 1:
                msg = (
                    f"one sequence of {self.text.n_positions} tokens does not fit into the memory "
                    f"of {self.device}. Take shorter sequences or another device."
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
        return max(1, positions // self.text.n_positions)


class _Kept:
    """What an observer made of each intervention, sequence and layer."""

    def __init__(self, n_interventions: int, n_sequences: int, observer: Observer) -> None:
        self.layers = tuple(sorted(set(observer.layers)))
        self._observer = observer
        self._shape = (n_interventions, n_sequences, len(self.layers))
        self._values: Tensor | None = None
        self._guard = Lock()

    def add(
        self, layer: int, numbers: Sequence[Sequence[int]], sequences: slice, state: Tensor
    ) -> None:
        """Keep what the observer makes of (units, sequences, seq, hidden)."""
        read = self._observer(layer, state, sequences).cpu()
        with self._guard:
            if self._values is None:
                self._values = torch.full(
                    (*self._shape, *read.shape[2:]), float("nan"), dtype=read.dtype
                )
        at = self.layers.index(layer)
        for unit, indices in enumerate(numbers):
            for index in indices:
                self._values[index, sequences, at] = read[unit]

    def values(self) -> Tensor:
        """Return all of it: (interventions, sequences, layers, ...)."""
        if self._values is None:
            return torch.empty(self._shape)
        return self._values


class _Trunk:
    """One pass of a whole text, block by block: what enters a block and what it makes of it.

    The baseline pass is one; so is the pass that all interventions share which begin alike.
    """

    def __init__(
        self,
        passes: Passes,
        text: Text,
        last_read: Tensor | None = None,
        *,
        layer: int = -2,
        output: Tensor | None = None,
    ) -> None:
        self._passes = passes
        self.text = text
        self._last_read = last_read
        """Where the last block is read, (n_sequences, seq); none: everywhere."""
        self.layer = layer
        """The block that has run last; -1: the embedding; -2: nothing."""
        self._hidden: Tensor | None = None
        self._heads: Tensor | None = None
        self._attention: Tensor | None = None
        self._output = output

    def go_to(self, layer: int) -> None:
        """Run up to and with the block `layer`."""
        if layer < self.layer:
            msg = f"the pass is at layer {self.layer} and cannot go back to {layer}."
            raise AblationError(msg)
        while self.layer < layer:
            self._advance()

    def hidden(self, sequences: slice | Tensor) -> Tensor:
        """Return what enters the block: (sequences, seq, hidden)."""
        return self._get(self._hidden, sequences)

    def heads(self, sequences: slice | Tensor) -> Tensor:
        """Return what the heads of the block write: (sequences, seq, n_heads * d_head)."""
        return self._get(self._heads, sequences)

    def output(self, sequences: slice | Tensor) -> Tensor:
        """Return what leaves the block: (sequences, seq, hidden)."""
        return self._get(self._output, sequences)

    def all_heads(self) -> Tensor:
        """Return what the heads write in the whole text, where it is kept."""
        return self._there(self._heads)

    def read(self, layer: int, sequences: slice, copies: int = 1) -> Tensor | None:
        """Return where a block is read, once for each copy of the sequences; none: everywhere."""
        if self._last_read is None or layer < self._passes.architecture.n_layers - 1:
            return None
        return self._last_read[sequences].repeat(copies, 1)

    def starts(self, units: Sequence[_Changes]) -> Callable[[slice, slice], Tensor]:
        """Return what gives the block's output under some of `units`, on some sequences.

        (units, sequences, seq, hidden).
        """
        model = self._passes.architecture
        block = model.blocks[self.layer] if self.layer >= 0 else None
        # Copied once a unit, not once a batch.
        made = [self._made(block, changes) for changes in units]

        plain = [all(isinstance(change, Heads) for change in changes) for changes in units]

        def start(which: slice, sequences: slice) -> Tensor:
            if all(plain[which]):
                return self._without_heads(units[which], sequences)
            return torch.stack(
                [
                    self._without_heads([changes], sequences)[0]
                    if heads_alone
                    else self._changed(own, changes, sequences)
                    for changes, own, heads_alone in zip(
                        units[which], made[which], plain[which], strict=True
                    )
                ]
            )

        return start

    def stem(self, changes: _Changes) -> "_Trunk":
        """Return the pass of the whole text that goes on from here under some changes."""
        start = self.starts([changes])
        passes = self._passes

        def part(sequences: slice) -> tuple[Tensor, ...]:
            return (start(slice(0, 1), sequences)[0],)

        (output,) = self._everywhere(part)
        return _Trunk(passes, self.text, self._last_read, layer=self.layer, output=output)

    def _made(self, block: nn.Module | None, changes: _Changes) -> nn.Module | None:
        for change in changes:
            if isinstance(change, Noise) and block is not None:
                block = noised(block, alpha=change.alpha, seed=change.seed)
        return block

    def _without_heads(self, units: Sequence[_Changes], sequences: slice) -> Tensor:
        """Return the block's output with other heads in each unit, from what they add to it."""
        model, block = self._passes.architecture, self._passes.architecture.blocks[self.layer]
        weight, _ = model.projection(block)
        written = self.heads(sequences)
        before = self._get(self._output if model.additive else self._attention, sequences)
        flat = before.reshape(-1, before.shape[-1])
        after = before.new_empty(len(units), *before.shape)
        for index, changes in enumerate(units):
            base, out = flat, after[index].view_as(flat)
            for change in (one for one in changes if isinstance(one, Heads)):
                columns = _columns(change.heads, model.d_head, self._passes.device)
                # What is added to what the heads write; its sign is kept out of ZERO's product.
                new = self._instead(change, sequences)
                moved, sign = (written, -1.0) if new is None else (new - written, 1.0)
                moved, mixing = moved[..., columns], weight[:, columns].T
                moved = moved.reshape(-1, moved.shape[-1]).to(weight.dtype)
                if weight.dtype == flat.dtype:
                    torch.addmm(base, moved, mixing, alpha=sign, out=out)
                else:
                    torch.add(base, moved @ mixing, alpha=sign, out=out)
                base = out
        if model.additive:
            return after
        hidden, flat = self.hidden(sequences).expand_as(after).flatten(0, 1), after.flatten(0, 1)
        wanted = self.read(self.layer, sequences, len(units))
        return finish_at(model, block, hidden, flat, wanted).view_as(after)

    def _changed(self, block: nn.Module | None, changes: _Changes, sequences: slice) -> Tensor:
        """Return the output of a block that is run again under any changes."""
        model = self._passes.architecture
        if block is None:
            state = self.output(sequences)
        elif any(isinstance(change, Block) for change in changes):
            state = self.hidden(sequences)
        else:
            state = self.hidden(sequences)
            attended = self._passes._attended(self.text, sequences)
            heads = model.heads(block, state, attended)
            for change in changes:
                if isinstance(change, Heads):
                    columns = _columns(change.heads, model.d_head, self._passes.device)
                    new = self._instead(change, sequences)
                    heads = heads.clone()
                    heads[..., columns] = 0 if new is None else new[..., columns]
            state = model.finish(block, state, model.project(block, heads))
        for change in changes:
            if isinstance(change, Stream):
                state = change.change(state)
        return state

    def _instead(self, change: Heads, sequences: slice) -> Tensor | None:
        """Return what the layer's heads write instead; none: nothing."""
        reference = self._passes._reference
        if reference is None or not change.way.needs_reference:
            return None
        return reference.written(change, sequences)

    def _there(self, kept: Tensor | None) -> Tensor:
        if kept is None:
            msg = f"the pass holds no such state at layer {self.layer}."
            raise AblationError(msg)
        return kept

    def _get(self, state: Tensor | None, sequences: slice | Tensor) -> Tensor:
        kept = self._there(state)
        index = sequences.to(kept.device) if isinstance(sequences, Tensor) else sequences
        return kept[index].to(self._passes.device)

    def _advance(self) -> None:
        """Run the next block once over the whole text, some sequences at a time."""
        passes, model = self._passes, self._passes.architecture
        self.layer += 1
        if self.layer < 0:

            def embed(sequences: slice) -> tuple[Tensor, ...]:
                return (model.enter(self.text[sequences].to(passes.device)),)

            (self._output,) = self._everywhere(embed)
            return
        block, entering = model.blocks[self.layer], self._there(self._output)

        def run(sequences: slice) -> tuple[Tensor, ...]:
            hidden = entering[sequences].to(passes.device)
            attended = passes._attended(self.text, sequences)
            heads, attention, output = states_at(
                model, block, hidden, self.read(self.layer, sequences), attended
            )
            # Where attention is only added, only the output is needed.
            return (heads, output) if model.additive else (heads, output, attention)

        self._hidden = entering
        self._heads, self._output, self._attention = (*self._everywhere(run), None)[:3]

    def _everywhere(self, run: Callable[[slice], tuple[Tensor, ...]]) -> list[Tensor]:
        """Run something on all sequences, some at a time, and return its whole results."""
        passes, n = self._passes, len(self.text)
        # What is kept may be larger than the device; the heads' batches never are.
        home = self._home()
        parts = [slice(start, start + passes.batch) for start in range(0, n, passes.batch)]
        kept: dict[int, tuple[Tensor, ...]] = {}
        pending = deque(enumerate(parts))

        def drain() -> None:
            while pending:
                try:
                    index, part = pending.popleft()
                except IndexError:  # another worker was faster
                    return
                kept[index] = tuple(state.to(home) for state in run(part))

        passes._everyone(drain, n_pieces=len(parts))
        return [torch.cat(pieces) for pieces in zip(*(kept[i] for i in sorted(kept)), strict=True)]

    def _home(self) -> torch.device:
        """Keep the pass on the device if it takes less than a third of what is free there."""
        device = self._passes.device
        if device.type != "cuda":
            return device
        weight, _ = self._passes.architecture.projection(self._passes.architecture.blocks[0])
        free, _ = torch.cuda.mem_get_info(device)
        needed = 5 * self.text.inputs.numel() * weight.shape[0] * 4
        return device if needed < free / 3 else torch.device("cpu")


class _Reference:
    """What the heads of the intact model write in another text, at the layers that are needed."""

    def __init__(self, passes: Passes, text: Text) -> None:
        self._passes = passes
        self._text = text
        self._trunk = _Trunk(passes, text)
        self._written: dict[int, Tensor] = {}
        self._means: dict[tuple[int, AblationType], Tensor] = {}

    def prepare(self, plans: Sequence[_Plan]) -> None:
        """Run up to every layer where some plan puts something else in a head's place."""
        wanted: dict[int, set[AblationType]] = {}
        for plan in plans:
            for layer, changes in plan:
                for change in changes:
                    if isinstance(change, Heads) and change.way.needs_reference:
                        wanted.setdefault(layer, set()).add(change.way)
        self._written = {layer: kept for layer, kept in self._written.items() if layer in wanted}
        for layer in sorted(wanted):
            drawn = AblationType.RESAMPLE in wanted[layer]
            means = wanted[layer] - {AblationType.RESAMPLE}
            if (not drawn or layer in self._written) and all(
                (layer, way) in self._means for way in means
            ):
                continue
            if layer < self._trunk.layer:
                self._trunk = _Trunk(self._passes, self._text)
            self._trunk.go_to(layer)
            heads = self._trunk.all_heads()
            for way in means:
                mean = reference_mean(heads, way, self._text.attended)
                self._means[layer, way] = mean.to(self._passes.device)
            if drawn:
                self._written[layer] = heads

    def written(self, change: Heads, sequences: slice) -> Tensor:
        """Return what stands in, (1 or sequences, 1 or seq, n_heads * d_head)."""
        if change.way is not AblationType.RESAMPLE:
            return self._means[change.layer, change.way]
        drawn = donors(self._passes.n_sequences, len(self._text), seed=change.seed)[sequences]
        kept = self._written[change.layer]
        found = kept[drawn.to(kept.device)].to(self._passes.device)
        if self._text.attended is None:
            return found
        # A donor that is shorter than the sequence begins anew.
        lengths = self._text.attended[drawn].sum(dim=1, keepdim=True)
        positions = torch.arange(self._text.n_positions) % lengths
        return found.take_along_dim(positions.to(found.device)[..., None], dim=1)


def _columns(heads: Sequence[int], d_head: int, device: torch.device) -> slice | Tensor:
    """Return where the heads lie side by side."""
    if len(heads) == 1:
        return slice(heads[0] * d_head, (heads[0] + 1) * d_head)
    within = torch.arange(d_head, device=device)
    return (torch.tensor(heads, device=device)[:, None] * d_head + within).flatten()


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
