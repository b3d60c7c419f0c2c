"""Videos: the frames that were given, as they come, or nothing."""

import sys

import jax.numpy as jnp
import numpy as np
import pytest

import jaxviz

RAMP = np.linspace(0, 1, 48)[None, :, None] * np.array([1.0, 0.5, 0.2])


def read(path):
    av = pytest.importorskip("av")
    with av.open(str(path)) as file:
        assert [stream.type for stream in file.streams] == ["video"]
        return [(frame.time, frame.to_ndarray(format="rgb24") / 255) for frame in file.decode(video=0)]


@pytest.mark.parametrize("size", [(32, 48), (31, 47)], ids=["even", "odd"])
def test_frames_and_times(tmp_path, size):
    pytest.importorskip("av")
    frames = [jnp.asarray(np.broadcast_to(RAMP, (48, 48, 3)) * level)[: size[0], : size[1]] for level in (0.2, 0.6, 1)]
    jaxviz.save_video(tmp_path / "new" / "ramp.mp4", (frame for frame in frames), rate=12.5)
    found = read(tmp_path / "new" / "ramp.mp4")
    assert [time for time, _ in found] == pytest.approx([0, 0.08, 0.16])
    for (_, frame), expected in zip(found, frames, strict=True):
        assert frame.shape == expected.shape
        assert np.abs(frame - expected).mean() < 0.02


def test_gray_frames(tmp_path):
    pytest.importorskip("av")
    for name, frames in {"a": np.full((2, 16, 16), 0.4), "b": np.full((2, 16, 16, 1), 0.4)}.items():
        jaxviz.save_video(tmp_path / f"{name}.mp4", frames)
        np.testing.assert_allclose(read(tmp_path / f"{name}.mp4")[1][1], 0.4, atol=0.02)


def test_a_dream_as_it_falls(tmp_path):
    pytest.importorskip("av")
    import jax

    score = lambda params, images: images[..., 2].mean((1, 2))
    fall = jaxviz.dream_zoom(score, None, jax.random.key(0), jnp.full((1, 16, 16, 3), 0.5), frames=3, octaves=1)
    jaxviz.save_video(tmp_path / "fall.mp4", (frame[0] for frame in fall))
    blue = [frame[..., 2].mean() for _, frame in read(tmp_path / "fall.mp4")]
    assert len(blue) == 3
    assert blue[0] + 0.05 < blue[1] < blue[2]


def failing():
    yield np.zeros((16, 16, 3))
    raise RuntimeError("no second frame")


WRONG = {
    "expected at least one frame, got none": [],
    "expected frames of floats in \\[0, 1\\], got uint8": np.zeros((2, 16, 16, 3), np.uint8),
    "expected frames \\(h, w, c\\) or \\(h, w\\), got shape \\(1, 16, 16, 3\\); a batch's": [np.zeros((1, 16, 16, 3))],
    "frame 1 has values that are NaN": [np.zeros((16, 16)), np.full((16, 16), np.nan)],
    "expected frames of one size, \\(16, 16\\), but frame 1 is \\(8, 16\\)": [np.zeros((16, 16)), np.zeros((8, 16))],
}


@pytest.mark.parametrize(("message", "frames"), WRONG.items(), ids=["none", "bytes", "batch", "nan", "sizes"])
def test_what_cannot_be_written_leaves_nothing(tmp_path, message, frames):
    pytest.importorskip("av")
    (tmp_path / "a.mp4").write_bytes(b"before")
    with pytest.raises(jaxviz.ImageError, match=message):
        jaxviz.save_video(tmp_path / "a.mp4", frames)
    with pytest.raises(RuntimeError, match="no second frame"):
        jaxviz.save_video(tmp_path / "a.mp4", failing())
    assert [(path.name, path.read_bytes()) for path in tmp_path.iterdir()] == [("a.mp4", b"before")]


def test_other_names_rates_and_no_pyav(tmp_path, monkeypatch):
    frames = np.zeros((2, 16, 16))
    with pytest.raises(jaxviz.ImageError, match=r"a\.gif: expected a name ending in \.mp4, got '\.gif'"):
        jaxviz.save_video(tmp_path / "a.gif", frames)
    for rate in (0, -1.0, float("nan")):
        with pytest.raises(jaxviz.ImageError, match="expected a rate above 0"):
            jaxviz.save_video(tmp_path / "a.mp4", frames, rate=rate)
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(jaxviz.ImageError, match=r"which is not installed: pip install 'jaxviz-cnn\[video\]'"):
        jaxviz.save_video(tmp_path / "a.mp4", frames)
    assert not list(tmp_path.iterdir())
