"""Large images in tiles, and videos."""

import functools
import struct
import sys

import jax
import numpy as np
import pytest

import jaxviz
from jaxviz.cli._video import map_video
from jaxviz.image._checks import ImageError
from jaxviz.synthesis.fast_style import _restyle
from jaxviz.synthesis.fast_style._net import mixture


@pytest.fixture(scope="module")
def params():
    return jaxviz.init_style_net(jax.random.key(0), width=2, blocks=1, styles=2)


@pytest.fixture(scope="module")
def image():
    return np.asarray(jaxviz.blur(jax.random.uniform(jax.random.key(1), (1, 190, 253, 3)), 1.5)[0])


def bordered(image):
    return np.pad(image, ((28, 28), (28, 28), (0, 0)), mode="reflect")


@pytest.mark.slow
def test_a_small_image_is_what_the_net_makes_of_it_with_a_border(params, image):
    mix = np.array([0.3, 0.7], np.float32)
    expected = jax.jit(jaxviz.style_net)(params, bordered(image)[None], style=mix)[0, 28:-28, 28:-28]
    np.testing.assert_allclose(jaxviz.restyle(params, image, style=mix, tile=220), expected, atol=1e-6)


@pytest.mark.slow
def test_the_net_that_comes_with_jaxviz_leaves_no_line_along_the_edge():
    """Without the border, neighboring rows or columns differ, in the mean of their pixels, more at the edge."""
    from skimage import data

    params, styles = jaxviz.load_style_net()
    photo, style = np.asarray(jaxviz.load_image(data.chelsea(), size=224)), styles.index("starry_night@256")

    def edge(made):
        steps = [np.abs(np.diff(np.asarray(made), axis=axis).mean(1 - axis)).mean(-1) for axis in (0, 1)]
        return np.mean([side.mean() / of[20:-20].mean() for of in steps for side in (of[:4], of[-4:])])

    whole = jax.jit(functools.partial(jaxviz.style_net, style=style))(params, photo[None])[0]
    wide = np.pad(photo, ((64, 64), (64, 64), (0, 0)), mode="reflect")
    without = jax.jit(functools.partial(jaxviz.style_net, style=style))(params, wide[None])[0][64:-64, 64:-64]
    # As if the edge were none, where the net by itself makes a line.
    assert edge(jaxviz.restyle(params, photo, style=style)) == pytest.approx(edge(without), rel=0.1)
    assert edge(whole) > 1.3 * edge(without)


@pytest.mark.slow
@pytest.mark.parametrize("size", [(1, 1), (1, 40), (5, 3), (17, 16)])
def test_the_smallest_images(params, size):
    assert jaxviz.restyle(params, np.full((*size, 3), 0.5, np.float32)).shape == (*size, 3)


@pytest.mark.slow
def test_tiles_have_no_seam(params, image):
    """They are, to rounding, what one pass with the same moments gives."""
    mix = mixture(params, 1)
    for tile in (96, 97, 98, 99, 128):
        made = jaxviz.restyle(params, image, style=1, tile=tile)
        whole = bordered(image)
        moments = _restyle._moments(params, _restyle._shrunk(whole, tile), mix)
        expected = _restyle._with_moments(params, whole[None], mix, moments)[0, 28:-28, 28:-28]
        np.testing.assert_allclose(made, expected, atol=1e-5)


@pytest.mark.usefixtures("users_view")
def test_errors(params, image):
    with pytest.raises(ValueError, match=r"tile: expected at least 84 px, three times the reach of this net, got 50"):
        jaxviz.restyle(params, image, tile=50)
    with pytest.raises(ValueError, match="expected one of 0 to 1"):
        jaxviz.restyle(params, image, style=2)
    with pytest.raises(ValueError, match="one row of weights for the image, got 2 rows"):
        jaxviz.restyle(params, image, style=np.eye(2, dtype=np.float32))
    with pytest.raises(ValueError, match="expected images"):
        jaxviz.restyle(params, image[..., 0])


# Videos


def write_video(path, size=(48, 64), frames=7, sound=None):
    """Write a video that becomes red from the left, with a second of silence."""
    av = pytest.importorskip("av")
    with av.open(str(path), "w") as file:
        pictures = file.add_stream("libx264", rate=10)
        pictures.height, pictures.width = size
        pictures.pix_fmt = "yuv444p"
        silence = file.add_stream(sound, rate=44100) if sound else None
        for i in range(frames):
            pixels = np.zeros((*size, 3), np.uint8)
            pixels[:, : i * size[1] // frames, 0] = 200
            file.mux(pictures.encode(av.VideoFrame.from_ndarray(pixels, "rgb24")))
        file.mux(pictures.encode(None))
        if silence is not None:
            kind, format = (np.float32, "fltp") if sound == "aac" else (np.uint8, "u8")
            samples = av.AudioFrame.from_ndarray(np.zeros((1, 44100), kind), format=format, layout="mono")
            samples.sample_rate, samples.pts = 44100, 0
            file.mux(silence.encode(samples))
            file.mux(silence.encode(None))


def read_video(path):
    import av

    with av.open(str(path)) as file:
        frames = [(frame.time, frame.to_ndarray(format="rgb24")) for frame in file.decode(video=0)]
        return frames, [stream.type for stream in file.streams]


@pytest.mark.parametrize(("size", "longest", "expected"), [((48, 64), None, (48, 64)), ((45, 63), 32, (23, 32))])
def test_a_video_is_changed_frame_by_frame(tmp_path, size, longest, expected):
    write_video(tmp_path / "clip.mp4", size, sound="aac" if longest is None else None)
    told = []
    count = map_video(
        lambda frame: 1 - frame, tmp_path / "clip.mp4", tmp_path / "new.mp4", longest=longest,
        tell=lambda *at: told.append(at),
    )  # fmt: skip
    (before, streams), (after, new_streams) = (read_video(tmp_path / name) for name in ("clip.mp4", "new.mp4"))
    assert count == len(after) == 7
    assert told == [(i, 7) for i in range(1, 8)]
    assert new_streams == streams
    assert [at for at, _ in after] == pytest.approx([at for at, _ in before])
    for (_, old), (_, new) in zip(before, after, strict=True):
        assert new.shape == (*expected, 3)
        assert abs(old.mean() + new.mean() - 255) < 4


def test_a_video_that_was_filmed_upright(tmp_path):
    """Telephones write it lying, with a matrix that says how to turn it: here to the right, so that red comes from
    above."""
    write_video(tmp_path / "clip.mp4")
    data = bytearray((tmp_path / "clip.mp4").read_bytes())
    at = data.find(b"tkhd") + 4 + 40
    data[at : at + 36] = struct.pack(">9i", 0, 0x10000, 0, -0x10000, 0, 0, 0x10000 * 48, 0, 0x40000000)
    (tmp_path / "clip.mp4").write_bytes(data)
    map_video(lambda frame: frame, tmp_path / "clip.mp4", tmp_path / "new.mp4", tell=lambda *_: None)
    _, frame = read_video(tmp_path / "new.mp4")[0][3]
    assert frame.shape == (64, 48, 3)
    red = frame[..., 0].astype(float).mean(1)
    assert red[:24].min() > 150
    assert red[32:].max() < 50


def test_sound_that_an_mp4_cannot_hold(tmp_path):
    write_video(tmp_path / "clip.avi", sound="pcm_u8")
    assert map_video(lambda frame: frame, tmp_path / "clip.avi", tmp_path / "new.mp4", tell=lambda *_: None) == 7
    import av

    with av.open(str(tmp_path / "new.mp4")) as file:
        assert file.streams.audio[0].codec_context.name == "aac"
        samples = sum(frame.samples for frame in file.decode(audio=0))
    assert samples == pytest.approx(44100, abs=2100)  # the encoder's blocks have 1024


def test_colors_and_the_shape_of_pixels_stay(tmp_path):
    """A clip whose colors are named by BT.709, as most are, and whose pixels are twice as wide as high."""
    import av

    with av.open(str(tmp_path / "clip.mp4"), "w") as file:
        pictures = file.add_stream("libx264", rate=10)
        pictures.width, pictures.height, pictures.pix_fmt = 64, 48, "yuv444p"
        pictures.codec_context.colorspace, pictures.codec_context.sample_aspect_ratio = 1, 2
        green = av.VideoFrame.from_ndarray(np.full((48, 64, 3), [30, 180, 60], np.uint8), "rgb24")
        file.mux(pictures.encode(green.reformat(format="yuv444p", dst_colorspace=1)))
        file.mux(pictures.encode(None))
    map_video(lambda frame: frame, tmp_path / "clip.mp4", tmp_path / "new.mp4", tell=lambda *_: None)
    with av.open(str(tmp_path / "new.mp4")) as file:
        made = file.streams.video[0]
        assert (made.codec_context.colorspace, made.sample_aspect_ratio) == (1, 2)
    _, frame = read_video(tmp_path / "new.mp4")[0][0]
    np.testing.assert_allclose(frame.mean((0, 1)), [30, 180, 60], atol=4)
    with pytest.raises(ImageError, match="longest: expected at least 1 pixel, got -5"):
        map_video(lambda x: x, tmp_path / "clip.mp4", tmp_path / "new.mp4", longest=-5, tell=print)


def test_bytes_are_no_image(params):
    with pytest.raises(ValueError, match=r"image: expected values in \[0, 1\], got 0 to 255"):
        jaxviz.restyle(params, np.eye(12, dtype=np.float32)[..., None] * np.full(3, 255, np.float32))


def test_what_is_no_video(tmp_path, monkeypatch):
    (tmp_path / "clip.mp4").write_bytes(b"no video")
    with pytest.raises(ImageError, match=r"clip.mp4: expected a video that FFmpeg can read"):
        map_video(lambda x: x, tmp_path / "clip.mp4", tmp_path / "new.mp4", tell=print)
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(ImageError, match=r"which is not installed: pip install 'jaxviz-cnn\[video\]'"):
        map_video(lambda x: x, tmp_path / "clip.mp4", tmp_path / "new.mp4", tell=print)
    assert list(tmp_path.iterdir()) == [tmp_path / "clip.mp4"]


@pytest.mark.parametrize("text", ["ffconcat version 1.0\nfile secret.mp4\n", "#EXTM3U\n#EXTINF:1,\nsecret.mp4\n"])
def test_a_video_that_is_a_list_opens_no_other_file(text, tmp_path):
    write_video(tmp_path / "secret.mp4")
    (tmp_path / "list.mp4").write_text(text)
    with pytest.raises(ImageError, match=r"list\.mp4: expected a video that FFmpeg can read, got: "):
        map_video(lambda image: image, tmp_path / "list.mp4", tmp_path / "made.mp4", tell=lambda done, total: None)
    assert not (tmp_path / "made.mp4").exists()
