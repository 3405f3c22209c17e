"""Train pythia-mini, the demo's model, and keep its checkpoints in the layout of the Hub."""

import os

# Before PyTorch starts its threads: those that wait must sleep. Spinning, they take the processor
# from whatever runs beside, and a step was seen to take ten times as long.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

from stages.base import cli
from stages.base.files import write_text
from stages.base.settings import load, needed
from stages.inputs import training
from stages.inputs.mini import corpus as corpora
from stages.inputs.mini import tokenizer as tokenizers
from stages.inputs.mini.train import Material, Neox, key_of
from stages.inputs.settings import MiniModel


def make(model: MiniModel, *, out: Path, scratch: Path) -> None:
    """Collect the text, train, and put folder `out` in place, whole or not at all.

    Parameters
    ----------
    model
        What to train.
    out
        Gets ``step<N>/``, ``train_log.csv``, ``corpus.json`` and the texts that were held out.
    scratch
        Keeps what is unfinished between runs.
    """
    corpus = corpora.collect(model.corpus)
    for other in corpora.other_versions(corpus, model.corpus):
        cli.log.warning("%s: the text, and so %s, is not the pinned one", other, model.name)
    tokenizer = tokenizers.learn(
        (document.text for document in corpus.documents["train"]),
        vocab_size=model.train.vocab_size,
    )

    def encoded(split: corpora.Split) -> corpora.Tokens:
        return tokenizers.encode(tokenizer, (document.text for document in corpus.documents[split]))

    material = Material(
        tokenizer=tokenizer,
        train=encoded("train"),
        heldout=corpora.spread(encoded("heldout"), model.text.n_sequences, model.text.seq_len),
    )

    def texts(folder: Path) -> None:
        write_text(folder / "corpus.json", json.dumps(corpus.statement(), indent=2) + "\n")
        for split in ("heldout", "reference"):
            write_text(folder / f"{split}.txt", corpus.text(split))

    training.make(
        Neox(model, material), key_of(model, material), out=out, scratch=scratch, beside=texts
    )


def _run(args: argparse.Namespace) -> None:
    model = needed(
        load(args.params).model,
        MiniModel,
        source=args.params,
        does="is not trained here",
        instead="--model pythia-mini",
    )
    make(model, out=args.out, scratch=args.scratch)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the stage."""
    parser = cli.parser(__doc__)
    cli.add_params(parser)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument(
        "--scratch",
        type=Path,
        default=Path("data/scratch/training"),
        help="unfinished training, outside of what DVC deletes (default: %(default)s)",
    )
    return cli.run(parser, _run, argv)


if __name__ == "__main__":
    raise SystemExit(main())
