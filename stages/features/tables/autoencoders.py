"""Schema of what autoencoders are worth, beside others of which a part never learnt."""

from stages.base.columns import count, number, schema, text

ON = ("stream", "untrained model", "planted")

AUTOENCODERS = schema(
    "autoencoders",
    {
        "on": text(isin=ON),
        "layer": count(),
        "kind": text(isin=("trained", "frozen_decoder", "soft_frozen_decoder", "frozen_encoder")),
        "seed": count(),
        "n_features": count(1),
        "k": count(1),
        "n_rows": count(1),
        "explained": number(high=1),
        "recovered": number(nullable=True),
        "loss": number(nullable=True),
        "loss_spliced": number(nullable=True),
        "loss_without": number(nullable=True),
        "alive": count(),
        "dead": count(),
        "stability": number(0, 1, nullable=True),
        "found": number(0, 1, nullable=True),
    },
    ["on", "layer", "kind", "seed"],
)
"""`on`: the stream of the model behind `layer`, that of the model before training, or rows made of
planted directions. `explained`: share of the variance of centred rows. `loss`: of the intact model,
with the reconstruction in the stream's place, and with every feature off (`loss_without`);
`recovered` is the share of the last that the reconstruction brings back. `alive`: features that
fire often enough, `dead`: that never do. `stability`: mean over alive features of the largest
cosine with an alive one of another seed; `found`: share of planted directions with a cosine of 0.9
to some feature."""
