"""TransformerLens as one side of a benchmark, in an environment of its own.

Its requirements are not this project's, so it is not installed with it::

    python3.11 -m venv lens && lens/bin/pip install torch==2.13.0 transformer-lens==4.3.0

``transformer_lens_heads`` runs there and answers head by head, timing its own work.
"""

import json
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from benchmarks.model_shapes import save
from stages.base.errors import AblationError

SCRIPT = Path(__file__).with_name("transformer_lens_heads.py")


class Lens:
    """A running TransformerLens that waits for heads to remove; see :func:`opened`."""

    def __init__(self, process: "subprocess.Popen[str]", complaints: Path) -> None:
        self._process = process
        self._complaints = complaints
        # It prints while it loads.
        while self._line() != "ready":
            pass

    def without_head(self, layer: int, head: int) -> tuple[float, float]:
        """Return the seconds of a pass without this head, and the mean loss in nats a token.

        Raises
        ------
        AblationError
            The other side has ended.
        """
        stdin: Any = self._process.stdin
        stdin.write(f"{layer} {head}\n")
        stdin.flush()
        answer = json.loads(self._line())
        return float(answer["seconds"]), float(answer["loss"])

    def _line(self) -> str:
        stdout: Any = self._process.stdout
        if line := str(stdout.readline()):
            return line.rstrip("\n")
        status = self._process.wait()
        said = self._complaints.read_text(encoding="utf-8", errors="replace").splitlines()
        msg = (
            f"{SCRIPT.name} ended with status {status} ({said[-1] if said else 'without a word'}). "
            "Install torch==2.13.0 and transformer-lens==4.3.0 where --lens points to."
        )
        raise AblationError(msg)


@contextmanager
def opened(
    python: Path, model: Any, tokens: Tensor, *, batch_size: int, threads: int
) -> Iterator[Lens]:
    """Start TransformerLens on the same weights and tokens, and end it with the block.

    Parameters
    ----------
    python
        The interpreter of its environment.
    model
        A GPT-NeoX of `transformers`, in float32.
    tokens
        (n_sequences, seq), integers.
    batch_size
        Sequences in one pass.
    threads
        Threads of its PyTorch.

    Raises
    ------
    AblationError
        There is no such interpreter, or it cannot load the model.
    """
    with tempfile.TemporaryDirectory() as name:
        checkpoint, complaints = Path(name) / "checkpoint", Path(name) / "stderr"
        checkpoint.mkdir()
        save(model, checkpoint)
        np.save(Path(name) / "tokens.npy", tokens.numpy().astype(np.int32), allow_pickle=False)
        options = {
            "--checkpoint": checkpoint,
            "--tokens": Path(name) / "tokens.npy",
            "--batch-size": batch_size,
            "--threads": threads,
        }
        words = [str(word) for option in options.items() for word in option]
        with complaints.open("w", encoding="utf-8") as stderr:
            try:
                # Isolated: nothing of this project or this environment is imported there.
                process = subprocess.Popen(
                    [str(python), "-I", str(SCRIPT), *words],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=stderr,
                    text=True,
                )
            except OSError as error:
                msg = f"{python} cannot be run ({error.strerror}). Name a Python by --lens."
                raise AblationError(msg) from None
            with process:
                try:
                    yield Lens(process, complaints)
                finally:
                    process.kill()
