"""Two pictures painted by program, in broad strokes: styles for those who have no painting at hand."""

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw

_SIDE = 512  # of the canvas, in pixels; strokes are drawn at this size, and then made smaller with it


class _Painting(NamedTuple):
    """What there is to paint, at places (x, y) from 0 to 1, y downward."""

    colors: Callable[[float, float], tuple[float, float, float]]  # RGB, 0 to 1
    turns: Callable[[float, float], float]  # which way a stroke runs there, in radians
    seed: int


def _mixed(a: tuple[float, ...], b: tuple[float, ...], part: float) -> tuple[float, float, float]:
    part = min(max(part, 0.0), 1.0)
    red, green, blue = (p * (1 - part) + q * part for p, q in zip(a, b, strict=True))
    return red, green, blue


def _evening(x: float, y: float) -> tuple[float, float, float]:
    """A low sun over water: an orange sky, its reflection, and dark hills between."""
    from_sun = math.hypot(x - 0.62, (y - 0.36) * 1.1)
    if from_sun < 0.08:
        return 1.0, 0.93, 0.62
    hills = 0.53 + 0.05 * math.sin(7 * x + 1) + 0.03 * math.sin(17 * x)
    if hills < y < 0.64:
        return _mixed((0.10, 0.13, 0.36), (0.30, 0.16, 0.42), x)
    if y >= 0.64:
        bright = math.exp(-(((x - 0.62) / 0.13) ** 2)) * (0.6 + 0.4 * math.sin(60 * y))
        return _mixed(_mixed((0.07, 0.30, 0.46), (0.03, 0.13, 0.29), (y - 0.64) * 2.8), (1.0, 0.62, 0.20), bright)
    return _mixed((0.98, 0.60, 0.18), _mixed((0.80, 0.20, 0.22), (0.16, 0.20, 0.52), 1 - 2.2 * y), from_sun * 1.8)


def _around_the_sun(x: float, y: float) -> float:
    if y > 0.64:
        return 0.25 * math.sin(9 * x + 25 * y)
    return math.atan2(y - 0.36, x - 0.62) + math.pi / 2 + 0.3 * math.sin(6 * x)


def _garden(x: float, y: float) -> tuple[float, float, float]:
    """Round flowers on a meadow, under a pale sky."""
    flowers = ((0.2, 0.62, 0.13), (0.52, 0.74, 0.16), (0.82, 0.6, 0.12), (0.36, 0.42, 0.09), (0.68, 0.4, 0.1))
    petals = ((0.93, 0.25, 0.35), (0.98, 0.80, 0.20), (0.85, 0.40, 0.75), (0.98, 0.95, 0.90), (0.95, 0.48, 0.14))
    for (cx, cy, radius), petal in zip(flowers, petals, strict=True):
        away = math.hypot(x - cx, y - cy) / radius
        if away < 0.3:
            return 0.42, 0.22, 0.10
        if away < 1:
            return _mixed(petal, (0.55, 0.10, 0.25), away - 0.35)
    if y < 0.28 + 0.04 * math.sin(9 * x):
        return _mixed((0.55, 0.80, 0.86), (0.93, 0.93, 0.78), y * 3)
    return _mixed((0.42, 0.66, 0.24), (0.06, 0.30, 0.22), 0.5 + 0.5 * math.sin(11 * x + 5 * math.sin(13 * y)))


def _through_the_grass(x: float, y: float) -> float:
    flowers = ((0.2, 0.62, 0.15), (0.52, 0.74, 0.18), (0.82, 0.6, 0.14), (0.36, 0.42, 0.11), (0.68, 0.4, 0.12))
    for cx, cy, radius in flowers:
        if math.hypot(x - cx, y - cy) < radius:
            return math.atan2(y - cy, x - cx)
    return 0.2 * math.sin(8 * x) if y < 0.28 else math.pi / 2 + 0.7 * math.sin(5 * x + 3 * y)


PAINTINGS = {"evening": _Painting(_evening, _around_the_sun, 3), "garden": _Painting(_garden, _through_the_grass, 5)}


def paint(name: str) -> np.ndarray:
    """Return one of the `PAINTINGS`, `(512, 512, 3)`, bytes."""
    painting = PAINTINGS[name]
    draw = np.random.default_rng(painting.seed)
    ground = [[_bytes(painting.colors(x / 32, y / 32)) for x in range(32)] for y in range(32)]
    canvas = Image.fromarray(np.array(ground, np.uint8)).resize((_SIDE, _SIDE))
    pencil = ImageDraw.Draw(canvas)
    for width, length, number in ((34, 120, 350), (20, 90, 700), (11, 60, 1300)):
        for x, y in draw.uniform(-0.1, 1.05, (number, 2)):  # strokes that come in from outside, too
            _stroke(pencil, painting, (x, y), width * draw.uniform(0.7, 1.2), length, draw)
    return np.asarray(canvas)


def _stroke(
    pencil: ImageDraw.ImageDraw, painting: _Painting, start: tuple[float, float], width: float, length: int, draw
) -> None:
    """Draw a stroke of one color that follows the painting, as bristles side by side, each of its own shade."""
    color = np.array(painting.colors(*np.clip(start, 0, 1))) + draw.normal(0, 0.05, 3) + draw.normal(0, 0.04)
    x, y, line = *np.asarray(start) * _SIDE, []
    for _ in range(max(length // 6, 2)):
        turn = painting.turns(min(max(x / _SIDE, 0), 1), min(max(y / _SIDE, 0), 1))
        line.append((x, y, -math.sin(turn), math.cos(turn)))
        x, y = x + 6 * math.cos(turn), y + 6 * math.sin(turn)
    bristles = max(int(width / 3), 2)
    for i in range(bristles):
        away = (i + 0.5 - bristles / 2) * width / bristles
        first, last = draw.integers(0, 3), len(line) - draw.integers(0, 4)
        places = [(px + nx * away, py + ny * away) for px, py, nx, ny in line[first:last]]
        if len(places) > 1:
            shade = _bytes(color + 0.07 * math.sin(2.4 * i + x) + 0.05 * (away < 0))
            pencil.line(places, fill=shade, width=math.ceil(width / bristles) + 1, joint="curve")


def _bytes(color: tuple[float, ...] | np.ndarray) -> tuple[int, int, int]:
    red, green, blue = np.clip(np.asarray(color) * 255, 0, 255).astype(int)
    return int(red), int(green), int(blue)
