"""Videos, frame by frame, through PyAV: the optional extra `video`."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from jaxviz._image import ImageError, write_atomically

VIDEOS = (".mp4", ".mov", ".mkv", ".webm", ".avi")


def map_video(
    change: Callable[[np.ndarray], np.ndarray],
    source: Path,
    target: Path,
    *,
    longest: int | None = None,
    tell: Callable[[int, int], Any],
) -> int:
    """Write an .mp4 of a video's frames, each changed, at the pace and with the sound that it had; return how many.

    Frames are `(h, w, 3)` in [0, 1], before and after, their longer side at most `longest` pixels; `tell(done, total)`
    is called after each, with a total of 0 where the file does not say. The new file appears whole or not at all.

    Raises:
        ImageError: for what is no video, or where PyAV is not installed.
    """
    try:
        import av
        from av.error import FFmpegError
    except ImportError:
        raise ImageError(
            f"{source}: videos are read by PyAV, which is not installed: pip install 'jaxviz-cnn[video]'"
        ) from None
    frames = 0

    def write(file: Any) -> None:
        nonlocal frames
        frames = _write(av, change, reading, file, longest, tell)

    try:
        with av.open(str(source)) as reading:
            if not reading.streams.video:
                raise ImageError(f"{source}: expected a video, got a file without pictures")
            write_atomically(target, write)
    except FFmpegError as error:
        raise ImageError(f"{source}: expected a video that FFmpeg reads, got: {error}") from error
    return frames


def _write(
    av: Any,
    change: Callable[[np.ndarray], np.ndarray],
    reading: Any,
    file: Any,
    longest: int | None,
    tell: Callable[[int, int], Any],
) -> int:
    pictures, done = reading.streams.video[0], 0
    sound = next(iter(reading.streams.audio), None)
    scale = min(1.0, (longest or math.inf) / max(pictures.width, pictures.height))
    with av.open(file, "w", format="mp4") as writing:
        made = writing.add_stream("libx264", rate=pictures.average_rate)
        made.width, made.height = (max(1, round(side * scale)) for side in (pictures.width, pictures.height))
        # Colours at half the resolution are what every player shows; sides that are odd do not have one.
        made.pix_fmt = "yuv444p" if made.width % 2 or made.height % 2 else "yuv420p"
        made.time_base = pictures.time_base
        copied = None if sound is None else writing.add_stream_from_template(sound)
        for packet in reading.demux([stream for stream in (pictures, sound) if stream is not None]):
            if packet.stream is not pictures:
                if packet.dts is not None:  # the last one, empty
                    packet.stream = copied
                    writing.mux(packet)
                continue
            for frame in packet.decode():
                pixels = frame.to_ndarray(format="rgb24", width=made.width, height=made.height)
                changed = change(pixels.astype(np.float32) / 255)
                new = av.VideoFrame.from_ndarray(np.round(255 * np.clip(changed, 0, 1)).astype(np.uint8), "rgb24")
                new.pts, new.time_base = frame.pts, frame.time_base
                writing.mux(made.encode(new))
                done += 1
                tell(done, pictures.frames)
        writing.mux(made.encode(None))
    return done
