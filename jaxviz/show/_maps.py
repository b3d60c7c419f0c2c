"""Maps as colors: which values count, on which scale, in which colors. Names after Captum's `visualization`."""

from collections.abc import Sequence
from typing import Literal, get_args

import numpy as np

Sign = Literal["all", "positive", "negative", "absolute_value"]
SIGNS = get_args(Sign)


def flat(maps: np.ndarray) -> np.ndarray:
    """Return maps without channels: the effect of changing all of a pixel's together, to first order, is their sum."""
    maps = maps.astype(np.float64)
    return maps.sum(-1) if maps.ndim == 4 else maps


def signed(maps: Sequence[np.ndarray], sign: Sign | None) -> Sign:
    """Return how maps on one scale are drawn: around zero as soon as one of them has negative values."""
    return sign or ("all" if any(part.size and part.min() < 0 for part in maps) else "positive")


def counted(values: np.ndarray, sign: Sign) -> np.ndarray:
    """Return the values that are drawn."""
    if sign == "absolute_value":
        return np.abs(values)
    return values if sign == "all" else np.maximum(values if sign == "positive" else -values, 0)


def limit(maps: Sequence[np.ndarray], outlier_perc: float) -> float:
    """Return the size at which colors end; the largest of all if so much is zero, 1 if all is."""
    sizes = np.abs(np.concatenate([part.ravel() for part in maps]))
    top = float(np.percentile(sizes, 100 - outlier_perc)) or float(sizes.max())
    return top or 1.0


def colors_of(sign: Sign, cmap: str | None) -> str:
    return cmap or ("RdBu_r" if sign == "all" else "inferno")


def colored(one: np.ndarray, outlier_perc: float = 1.0) -> np.ndarray:
    """Return one map, `(h, w)` or `(h, w, c)`, as colors on a scale of its own."""
    import matplotlib

    values = np.nan_to_num(flat(one[None])[0])
    sign = signed([values], None)
    top = limit([values], outlier_perc)
    share = values / top / 2 + 0.5 if sign == "all" else values / top
    return matplotlib.colormaps[colors_of(sign, None)](np.clip(share, 0, 1))[..., :3]
