"""Videos, frame by frame, with PyAV: the optional extra `video`."""

import math
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from jaxviz._files import write_atomically
from jaxviz.image._arrays import as_bytes
from jaxviz.image._checks import ImageError
from jaxviz.image._video import BT709, check_pyav, pixel_format

VIDEOS = (".mp4", ".mov", ".mkv", ".webm", ".avi")


def map_video(
    change: Callable[[np.ndarray], np.ndarray],
    source: Path,
    target: Path,
    *,
    longest: int | None = None,
    tell: Callable[[int, int], Any],
) -> int:
    """Write an .mp4 of a video's frames, each changed, with the original timing and sound; return their number.

    Frames are `(h, w, 3)` in [0, 1], upright, before and after, with the longer side at most `longest` pixels;
    `tell(done, total)` is called after each, with a total of 0 if the file does not state it. Sound that an .mp4 cannot
    hold is re-encoded as AAC. The new file is written atomically.

    Raises:
        ImageError: The file is not a video, or PyAV is not installed.
    """
    av = check_pyav(source)
    from av.error import FFmpegError

    if longest is not None and longest < 1:
        raise ImageError(f"longest: expected at least 1 pixel, got {longest}")
    frames = 0

    def write(file: Any) -> None:
        nonlocal frames
        frames = _write(av, change, reading, file, longest, quarters, tell)

    try:
        with _opened(av, source) as reading:
            if not reading.streams.video:
                raise ImageError(f"{source}: expected a video, got a file without a video stream")
            quarters = _quarter_turns(next(reading.decode(video=0), None))
        with _opened(av, source) as reading:
            write_atomically(target, write)
    except FFmpegError as error:
        raise ImageError(f"{source}: expected a video that FFmpeg can read, got: {error}") from error
    return frames


def _opened(av: Any, source: Path) -> Any:
    """Open only the supported formats: FFmpeg would also follow playlists of other files, and URLs."""
    return av.open(str(source.absolute()), options={"format_whitelist": "mov,matroska,webm,avi"})


def _quarter_turns(frame: Any) -> int:
    """Return how many 90-degree turns to the left make a frame upright: phones store rotated frames."""
    return 0 if frame is None else round(frame.rotation / 90) % 4


def _write(
    av: Any,
    change: Callable[[np.ndarray], np.ndarray],
    reading: Any,
    file: Any,
    longest: int | None,
    quarters: int,
    tell: Callable[[int, int], Any],
) -> int:
    pictures, done = reading.streams.video[0], 0
    sound = next(iter(reading.streams.audio), None)
    scale = min(1.0, (longest or math.inf) / max(pictures.width, pictures.height))
    rate = pictures.average_rate or pictures.guessed_rate or 25
    with av.open(file, "w", format="mp4") as writing:
        made = writing.add_stream("libx264", rate=rate)
        width, height = (max(1, round(side * scale)) for side in (pictures.width, pictures.height))
        made.width, made.height = (height, width) if quarters % 2 else (width, height)
        made.pix_fmt = pixel_format(made.width, made.height)
        made.time_base = pictures.time_base
        made.codec_context.colorspace = BT709
        shape = Fraction(pictures.sample_aspect_ratio or 1)  # aspect ratio of a pixel
        made.codec_context.sample_aspect_ratio = 1 / shape if quarters % 2 else shape
        play = None if sound is None else _sound(writing, sound)
        at, step = None, max(1, round(1 / (rate * pictures.time_base)))
        for packet in reading.demux([stream for stream in (pictures, sound) if stream is not None]):
            if play is not None and packet.stream is not pictures:
                play(packet)
                continue
            for frame in packet.decode():
                pixels = np.rot90(frame.to_ndarray(format="rgb24", width=width, height=height), quarters)
                changed = change(pixels.astype(np.float32) / 255)
                new = av.VideoFrame.from_ndarray(as_bytes(changed), "rgb24")
                new = new.reformat(format=made.pix_fmt, dst_colorspace=BT709)
                # Frames arrive in order, but an .avi has no timestamps.
                later = 0 if at is None else at + step
                at = frame.pts if frame.pts is not None and (at is None or frame.pts > at) else later
                new.pts, new.time_base = at, frame.time_base
                writing.mux(made.encode(new))
                done += 1
                tell(done, pictures.frames)
        writing.mux(made.encode(None))
    return done


def _sound(writing: Any, sound: Any) -> Callable[[Any], None]:
    """Return a function that writes each audio packet to the new file; the last packet is empty."""
    # Few players support PCM in an .mp4.
    plain = sound.codec_context.name.startswith("pcm_")
    try:
        copied = None if plain else writing.add_stream_from_template(sound)
    except ValueError:  # an .mp4 cannot hold it
        copied = None
    if copied is None:
        made = writing.add_stream("aac", rate=sound.rate)

        def encode(packet: Any) -> None:
            for frame in packet.decode():
                writing.mux(made.encode(frame))
            if packet.dts is None:
                writing.mux(made.encode(None))

        return encode

    def copy(packet: Any) -> None:
        if packet.dts is not None:
            packet.stream = copied
            writing.mux(packet)

    return copy
