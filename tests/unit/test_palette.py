"""Hold the colours apart, also for eyes without red or without green cones."""

import itertools

import numpy as np
import pytest
from matplotlib.colors import to_rgb

from stages.drawing import style
from stages.heads.figures import heads
from stages.measurement.concentration import QUADRANTS

# Machado, Oliveira and Fernandes (2009), doi 10.1109/TVCG.2009.113: severity 1, linear RGB.
SIGHT = {
    "all cones": np.eye(3),
    "no green cones": np.array(
        [
            [0.367322, 0.860646, -0.227968],
            [0.280085, 0.672501, 0.047413],
            [-0.011820, 0.042940, 0.968881],
        ]
    ),
    "no red cones": np.array(
        [
            [0.152286, 1.052583, -0.204868],
            [0.114503, 0.786281, 0.099216],
            [-0.003882, -0.048116, 1.051998],
        ]
    ),
}
XYZ = np.array(
    [
        [0.4124564, 0.3575761, 0.1804375],
        [0.2126729, 0.7151522, 0.0721750],
        [0.0193339, 0.1191920, 0.9503041],
    ]
)
WHITE = XYZ.sum(axis=1)
# What stands beside what: directions beside arms and heads in the plane, beside arms elsewhere.
TOGETHER = {name: style.COLOURS[name] for name in (*QUADRANTS, "heads")} | {"ink": style.INK}
LEAST = 20
"""Of CIEDE2000; 21.1 was seen, and 5 between the old colours of direction and platform."""


def lab(colour, sight):
    """Return CIELAB of a colour as it is seen."""
    rgb = np.array(to_rgb(colour))
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    share = XYZ @ np.clip(SIGHT[sight] @ linear, 0, 1) / WHITE
    f = np.where(share > 216 / 24389, np.cbrt(share), (24389 / 27 * share + 16) / 116)
    return 116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])


def ciede2000(one, two):
    """Return the difference of two colours (Sharma, Wu and Dalal 2005, doi 10.1002/col.20070)."""
    mean = np.hypot(*one[1:]) / 2 + np.hypot(*two[1:]) / 2
    grow = 1 + (1 - np.sqrt(mean**7 / (mean**7 + 25**7))) / 2
    z = [complex(a * grow, b) for _, a, b in (one, two)]
    chroma = np.abs(z)
    turn = np.angle(z[1] * z[0].conjugate())
    hue = np.degrees(np.angle(z[0]) + turn / 2) % 360
    light, c = (one[0] + two[0]) / 2, chroma.mean()
    steps = [(-0.17, -30, 1), (0.24, 0, 2), (0.32, 6, 3), (-0.20, -63, 4)]
    t = 1 + sum(by * np.cos(np.radians(times * hue + shift)) for by, shift, times in steps)
    d_light = (two[0] - one[0]) / (1 + 0.015 * (light - 50) ** 2 / np.hypot(20**0.5, light - 50))
    d_chroma = (chroma[1] - chroma[0]) / (1 + 0.045 * c)
    d_hue = 2 * np.sqrt(chroma.prod()) * np.sin(turn / 2) / (1 + 0.015 * c * t)
    bend = np.sin(np.radians(60 * np.exp(-(((hue - 275) / 25) ** 2))))
    turned = -2 * np.sqrt(c**7 / (c**7 + 25**7)) * bend * d_chroma * d_hue
    return float(np.sqrt(d_light**2 + d_chroma**2 + d_hue**2 + turned))


@pytest.mark.parametrize(
    ("one", "two", "expected"),
    [
        ((50, 2.6772, -79.7751), (50, 0, -82.7485), 2.0425),
        ((50, 2.49, -0.001), (50, -2.49, 0.0009), 7.1792),
        ((50, 2.5, 0), (73, 25, -18), 27.1492),
        ((60.2574, -34.0099, 36.2677), (60.4626, -34.1751, 39.4387), 1.2644),
        ((2.0776, 0.0795, -1.135), (0.9033, -0.0636, -0.5514), 0.9082),
    ],
)
def test_the_difference_of_colours_is_that_of_the_published_pairs(one, two, expected):
    assert ciede2000(one, two) == pytest.approx(expected, abs=5e-5)


@pytest.mark.parametrize("sight", SIGHT)
def test_colours_that_stand_together_are_apart(sight):
    seen = {name: lab(colour, sight) for name, colour in TOGETHER.items()}
    distances = {
        pair: ciede2000(*(seen[name] for name in pair)) for pair in itertools.combinations(seen, 2)
    }
    assert min(distances.values()) >= LEAST, min(distances, key=distances.get)


@pytest.mark.parametrize("sight", SIGHT)
def test_a_doubtful_direction_is_apart_from_the_sure_one_and_from_the_other(sight):
    crystallize, disperse = (style.COLOURS[name] for name in ("crystallize", "disperse"))
    for one, two in ((crystallize, disperse), (disperse, crystallize)):
        for other in (one, two, style.pale(two)):
            assert ciede2000(lab(style.pale(one), sight), lab(other, sight)) >= LEAST


def test_directions_differ_in_shape_and_heads_in_darkness():
    assert len({str(marker) for marker in style.MARKERS.values()}) == len(QUADRANTS)
    light = [lab(heads.SHADES(at)[:3], "all cones")[0] for at in np.linspace(0, 1, 11)]
    assert np.diff(light).max() < -5
