"""Train pythia-mini, the demo's model, and keep its checkpoints in the layout of the Hub."""

import os

# Before PyTorch starts its threads: those that wait must sleep. Spinning, they take the processor
# from whatever runs beside, and a step was seen to take ten times as long.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import argparse
import json
import shutil
from collections.abc import Sequence
from pathlib import Path

from stages.base import cli
from stages.base.errors import SettingsError
from stages.base.files import atomic_folder, write_text
from stages.base.settings import load
from stages.inputs.mini import corpus as corpora
from stages.inputs.mini import tokenizer as tokenizers
from stages.inputs.mini.train import Material, train
from stages.inputs.settings import MiniModel
from stages.inputs.training import LOG_FILE, alone


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
    with alone(scratch):
        folder = train(model, material, scratch=scratch)
        with atomic_folder(out) as fresh:
            for state in model.checkpoints:
                shutil.copytree(folder / state, fresh / state)
            shutil.copyfile(folder / LOG_FILE, fresh / LOG_FILE)
            write_text(fresh / "corpus.json", json.dumps(corpus.statement(), indent=2) + "\n")
            for split in ("heldout", "reference"):
                write_text(fresh / f"{split}.txt", corpus.text(split))
        shutil.rmtree(folder)


def _run(args: argparse.Namespace) -> None:
    model = load(args.params).model
    if not isinstance(model, MiniModel):
        msg = (
            f"{args.params} is composed for model {model.name} (source {model.source}), which is "
            "not trained here. Compose another: python -m stages.base.compose --model pythia-mini."
        )
        raise SettingsError(msg)
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
