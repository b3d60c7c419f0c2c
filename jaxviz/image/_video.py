"""Write pictures as a video, with PyAV: the optional extra `video`."""

import functools
import os
from collections.abc import Iterable, Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Shaped

from jaxviz._files import write_atomically
from jaxviz.image._arrays import AnyArray, as_bytes
from jaxviz.image._channels import as_rgb, is_picture
from jaxviz.image._checks import ImageError

BT709 = 1  # the matrix from RGB to YUV; if the file does not name it, players guess from the size
NO_PYAV = "videos need PyAV, which is not installed: pip install 'jaxviz-cnn[video]'"
_QUALITY = {"crf": "16"}  # x264's own 23 smears the fine texture of dreams


def save_video(
    path: str | os.PathLike[str], frames: Iterable[Shaped[AnyArray, "..."]], *, rate: float | int = 25.0
) -> None:
    """Write frames, as they come, to an .mp4 file (H.264).

    `save_video("fall.mp4", (frame[0] for frame in dream_zoom(...)))` makes a zoom without holding more than one frame.
    Values are clipped to [0, 1] and rounded to 8 bits. The file appears whole or not at all: if making a frame fails,
    nothing is written. Missing folders above it are created.

    Args:
        path: ends in .mp4.
        frames: images of one size, `(h, w, c)` or gray `(h, w)`, floats in [0, 1]: a list, an array or a generator. If
            they are neither gray nor RGB, they are shown as by `montage`.
        rate: frames per second, above 0 and below 1000.

    Raises:
        ImageError: another suffix; no frames; frames of another shape, of integers, or with values that are NaN or
            infinite; a rate that is not above 0; or PyAV is not installed.

    Example:
        >>> import jaxviz, numpy as np  # doctest: +SKIP
        >>> fade = np.linspace(0, 1, 50)[:, None, None] * np.ones((64, 64))  # doctest: +SKIP
        >>> jaxviz.save_video("fade.mp4", fade, rate=25)  # doctest: +SKIP
    """
    path = Path(path)
    if not 0 < rate < 1000:
        raise ImageError(f"{path}: expected a rate above 0 and below 1000 frames per second, got {rate}")
    if path.suffix.lower() != ".mp4":
        raise ImageError(f"{path}: expected a name ending in .mp4, got {path.suffix!r}")
    check_pyav(path)
    write_atomically(path, functools.partial(_encode, _pictures(path, frames), Fraction(rate).limit_denominator(1000)))


def check_pyav(path: object) -> Any:
    """Return the module av; raise ImageError if it is not installed."""
    try:
        import av
    except ImportError:
        raise ImageError(f"{path}: {NO_PYAV}") from None
    return av


def pixel_format(width: int, height: int) -> str:
    """Return the pixel format of a video: all players know color at half resolution, but odd sides cannot be halved."""
    return "yuv444p" if width % 2 or height % 2 else "yuv420p"


def _pictures(path: Path, frames: Iterable[Any]) -> Iterator[np.ndarray]:
    """Yield the frames as bytes `(h, w, 3)`, all of the first one's size."""
    size, count = None, 0
    for frame in frames:
        values = np.asarray(frame)
        if values.dtype.kind in "iu":
            raise ImageError(f"{path}: expected frames of floats in [0, 1], got {values.dtype}; divide by 255")
        if not is_picture(values.shape) or values.size == 0:
            raise ImageError(
                f"{path}: expected frames (h, w, c) or (h, w), got shape {values.shape}; a batch's first is frame[0]"
            )
        if not np.isfinite(values).all():
            raise ImageError(f"{path}: frame {count} has values that are NaN or infinite")
        size = size or values.shape[:2]
        if values.shape[:2] != size:
            raise ImageError(f"{path}: expected frames of one size, {size}, but frame {count} is {values.shape[:2]}")
        gray = values.ndim == 2 or values.shape[2] == 1
        colors = np.repeat(values.reshape(*size, 1), 3, -1) if gray else np.asarray(as_rgb(values))
        yield np.ascontiguousarray(as_bytes(colors.astype(np.float32)))
        count += 1
    if not count:
        raise ImageError(f"{path}: expected at least one frame, got none")


def _encode(pictures: Iterator[np.ndarray], rate: Fraction, file: Any) -> None:
    import av

    first = next(pictures)
    with av.open(file, "w", format="mp4") as writing:
        made = writing.add_stream("libx264", rate=rate, options=_QUALITY)
        made.height, made.width = first.shape[:2]
        made.pix_fmt = pixel_format(made.width, made.height)
        made.codec_context.colorspace = BT709
        for i, picture in enumerate(_from(first, pictures)):
            frame = av.VideoFrame.from_ndarray(picture, "rgb24").reformat(format=made.pix_fmt, dst_colorspace=BT709)
            frame.pts, frame.time_base = i, 1 / rate
            writing.mux(made.encode(frame))
        writing.mux(made.encode(None))


def _from(first: np.ndarray, rest: Iterator[np.ndarray]) -> Iterator[np.ndarray]:
    yield first
    yield from rest
