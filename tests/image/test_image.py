"""Images: every kind of source, every kind of bad source, and the pictures made of arrays.

Files are written by PIL into `tmp_path`; the oracle for orientation and resizing is PIL's own 8-bit arithmetic.
"""

import contextlib
import io
import os
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.ndimage
import skimage.data
from jax.test_util import check_grads
from PIL import EpsImagePlugin, Image, ImageOps

import jaxviz
from jaxviz.image._arrays import blur, montage, normalize, overlay, resize
from jaxviz.image._checks import ImageError
from jaxviz.image._files import load_image, save_image

CAT = skimage.data.chelsea()  # (300, 451, 3) uint8
COLORS = np.random.default_rng(0).integers(0, 256, (5, 7, 3), np.uint8)


def encoded(image, format, **options):
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


def assert_pixels(image, expected, atol=1e-7):
    assert isinstance(image, jax.Array)
    assert image.dtype == jnp.float32
    np.testing.assert_allclose(image, expected, rtol=0, atol=atol)


# Where an image comes from


def test_every_kind_of_source_gives_the_same_pixels(tmp_path):
    path = tmp_path / "colors.png"
    Image.fromarray(COLORS).save(path)
    with open(path, "rb") as file:
        from_file = load_image(file)
    sources = [path, str(path), path.read_bytes(), bytearray(path.read_bytes()), io.BytesIO(path.read_bytes())]
    sources += [
        Image.fromarray(COLORS),
        Image.open(io.BytesIO(path.read_bytes())),
        COLORS,
        jnp.asarray(COLORS),
        (COLORS / 255.0),
    ]
    for image in [from_file, *map(load_image, sources)]:
        assert_pixels(image, COLORS / 255.0)


def test_the_callers_image_and_file_are_left_as_they_were(tmp_path):
    image = Image.fromarray(COLORS)
    values = COLORS.copy()
    load_image(image, size=3)
    load_image(values, size=3)
    image.getpixel((0, 0))  # still open
    np.testing.assert_array_equal(values, COLORS)
    file = io.BytesIO(encoded(image, "PNG"))
    load_image(file)
    assert not file.closed


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64, jnp.bfloat16])
def test_floats_of_any_width(dtype):
    values = np.linspace(0, 1, 12).reshape(2, 2, 3).astype(dtype)
    assert_pixels(load_image(values), values.astype(np.float32))


def test_arrays_of_every_dtype_and_channel_count():
    assert_pixels(load_image(np.array([[0, 51, 255]], np.uint8)), [[[0] * 3, [0.2] * 3, [1] * 3]])
    assert_pixels(load_image(np.array([[0, 13107, 65535]], np.uint16)), [[[0] * 3, [0.2] * 3, [1] * 3]])
    assert_pixels(load_image(np.array([[13107]], ">u2")), [[[0.2] * 3]])
    assert_pixels(load_image(np.array([[[False], [True]]])), [[[0] * 3, [1] * 3]])
    assert_pixels(load_image(np.array([[[0.2, 0.4, 0.6, 0.5]]])), [[[0.6, 0.7, 0.8]]])


def test_floats_a_rounding_error_outside_are_clipped():
    assert_pixels(load_image(np.array([[-1e-6, 1 + 1e-6]])), [[[0] * 3, [1] * 3]], atol=0)


# What a file may hold


@pytest.mark.parametrize("format", ["PNG", "TIFF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation(orientation, format):
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encoded(Image.fromarray(COLORS), format, exif=exif)
    upright = np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(data))))
    assert upright.shape == ((5, 7, 3) if orientation < 5 else (7, 5, 3))
    assert_pixels(load_image(data), upright / 255.0)


def test_exif_orientation_6_is_a_quarter_turn_clockwise():
    exif = Image.Exif()
    exif[0x0112] = 6  # what a phone held upright writes
    data = encoded(Image.fromarray(CAT), "JPEG", exif=exif, quality=100, subsampling=0)
    assert_pixels(load_image(data), np.rot90(CAT, -1) / 255.0, atol=6 / 255)


@pytest.mark.parametrize("orientation", [0, 9, 77])
def test_unknown_orientation_is_ignored(orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    assert_pixels(load_image(encoded(Image.fromarray(COLORS), "PNG", exif=exif)), COLORS / 255.0)


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")
def test_damaged_exif_does_not_cost_the_photograph():
    data = encoded(Image.fromarray(CAT), "JPEG", exif=b"Exif\x00\x00MM\x00*\xff\xff\xff\xff garbage")
    assert load_image(data).shape == CAT.shape


def test_gray_and_one_bit():
    gray = COLORS[..., 0]
    assert_pixels(load_image(encoded(Image.fromarray(gray), "PNG")), np.repeat(gray[..., None], 3, 2) / 255.0)
    bits = Image.fromarray(gray > 127)
    assert bits.mode == "1"
    assert_pixels(load_image(encoded(bits, "PNG")), np.repeat((gray > 127)[..., None], 3, 2))


def test_16_bit_gray_keeps_its_precision():
    values = np.arange(65536, dtype=np.uint16).reshape(256, 256)
    data = encoded(Image.fromarray(values), "PNG")
    image = load_image(data)
    assert_pixels(image, np.repeat(values[..., None], 3, 2) / 65535.0)
    assert len(np.unique(image)) == 65536
    # Precision survives resizing too: the mean of neighbors has more than 8 bits.
    assert len(np.unique(load_image(data, size=(128, 128)))) > 10000


@pytest.mark.parametrize("mode", ["I;16", "I;16B", "I"])
def test_integer_modes(mode, tmp_path):
    values = np.array([[0, 256, 65535]], np.uint16)
    image = Image.fromarray(values.astype(np.int32)) if mode == "I" else Image.frombytes(
        mode, (3, 1), values.astype(">u2" if mode == "I;16B" else "<u2").tobytes()
    )  # fmt: skip
    assert image.mode == mode
    image.save(tmp_path / "gray.tif")
    for source in (image, tmp_path / "gray.tif"):
        assert_pixels(load_image(source), np.repeat(values[..., None], 3, 2) / 65535.0)


def test_integers_beyond_16_bits_are_refused():
    image = Image.fromarray(np.array([[0, 70000]], np.int32))
    with pytest.raises(ImageError, match=r"the PIL image: expected integers in \[0, 65535\], got .* \[0, 70000\]"):
        load_image(image)


def test_float_mode(tmp_path):
    values = np.array([[0, 0.25, 1]], np.float32)
    Image.fromarray(values).save(tmp_path / "float.tif")
    assert_pixels(load_image(tmp_path / "float.tif"), np.repeat(values[..., None], 3, 2), atol=0)
    with pytest.raises(ImageError, match=r"the PIL image: expected floats in \[0, 1\], got \[0, 200\]; divide"):
        load_image(Image.fromarray(np.array([[0, 200]], np.float32)))


def test_16_bit_pgm():
    data = b"P5 3 1 65535\n" + np.array([0, 13107, 65535], ">u2").tobytes()
    assert_pixels(load_image(data), [[[0] * 3, [0.2] * 3, [1] * 3]])


def test_a_path_may_be_an_element_of_an_array(tmp_path):
    save_image(tmp_path / "a.png", np.full((2, 2, 3), 0.2))
    assert_pixels(load_image(np.array([str(tmp_path / "a.png")])[0]), np.full((2, 2, 3), 0.2))


def test_alpha_is_flattened_on_white():
    gray_alpha = Image.fromarray(np.array([[[100, 0], [100, 51], [100, 255]]], np.uint8))
    assert gray_alpha.mode == "LA"
    expected = np.array([1, 100 / 255 * 0.2 + 0.8, 100 / 255])
    assert_pixels(load_image(encoded(gray_alpha, "PNG")), np.repeat(expected[None, :, None], 3, 2))
    color = Image.fromarray(np.array([[[255, 0, 0, 0], [255, 0, 0, 51]]], np.uint8))
    assert_pixels(load_image(encoded(color, "PNG")), [[[1, 1, 1], [1, 0.8, 0.8]]])


def test_palette_with_transparency():
    palette = Image.new("P", (3, 1))
    palette.putpalette([255, 0, 0, 0, 255, 0, 0, 0, 255])
    palette.putdata([0, 1, 2])
    assert_pixels(load_image(encoded(palette, "PNG")), [[[1, 0, 0], [0, 1, 0], [0, 0, 1]]])
    one_entry = encoded(palette, "PNG", transparency=1)
    assert_pixels(load_image(one_entry), [[[1, 0, 0], [1, 1, 1], [0, 0, 1]]])
    many = encoded(palette, "PNG", transparency=bytes([0, 51, 255]))
    assert_pixels(load_image(many), [[[1, 1, 1], [0.8, 1, 0.8], [0, 0, 1]]])


def test_transparent_color_key():
    data = encoded(Image.fromarray(np.array([[[1, 2, 3], [4, 5, 6]]], np.uint8)), "PNG", transparency=(1, 2, 3))
    assert_pixels(load_image(data)[0], [[1, 1, 1], [4 / 255, 5 / 255, 6 / 255]])


def test_cmyk_jpeg():
    cmyk = Image.new("CMYK", (16, 16), (0, 255, 255, 0))  # red ink on white paper
    assert_pixels(load_image(encoded(cmyk, "JPEG", quality=100)), np.broadcast_to([1.0, 0, 0], (16, 16, 3)), 3 / 255)
    assert_pixels(load_image(Image.new("CMYK", (2, 2))), np.ones((2, 2, 3)))


@pytest.mark.parametrize("format", ["GIF", "WEBP", "PNG", "TIFF"])
def test_first_frame_of_an_animation(format):
    frames = [Image.new("RGB", (8, 8), color) for color in ("red", "lime", "blue")]
    options = {"lossless": True} if format == "WEBP" else {}
    data = encoded(frames[0], format, save_all=True, append_images=frames[1:], **options)
    assert Image.open(io.BytesIO(data)).n_frames == 3
    assert_pixels(load_image(data), np.broadcast_to([1.0, 0, 0], (8, 8, 3)))


# What is refused, and in which words


def test_missing_file_and_folder(tmp_path):
    with pytest.raises(ImageError, match=r"absent\.png: expected an image file, but there is nothing at this path"):
        load_image(tmp_path / "absent.png")
    with pytest.raises(ImageError, match=r"expected an image file, got a folder; name a file in it"):
        load_image(tmp_path)


def test_not_an_image(tmp_path):
    (tmp_path / "page.jpg").write_text("<!DOCTYPE html>")
    with pytest.raises(ImageError, match=r"page\.jpg: expected an image file, got 15 bytes that begin with b'<!DOC"):
        load_image(tmp_path / "page.jpg")
    with pytest.raises(ImageError, match="the bytes: expected an image file, got 0 bytes"):
        load_image(b"")


EPS = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\n0 0 8 8 rectfill\nshowpage\n%%EOF\n"


def test_a_photograph_that_is_postscript_starts_no_program(tmp_path, monkeypatch):
    program = tmp_path / "gs"
    program.write_text(f"#!/bin/sh\ntouch {tmp_path}/started\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setattr(EpsImagePlugin, "gs_binary", None)  # it may have been looked for before
    (tmp_path / "photo.jpg").write_bytes(EPS)
    given = Image.open(io.BytesIO(EPS))
    assert given.format == "EPS"
    for source in (tmp_path / "photo.jpg", EPS, io.BytesIO(EPS)):
        with pytest.raises(
            ImageError, match=r"expected an image file, got .* that begin with b'%!PS-Ad.*JPEG, MPO, PNG"
        ):
            load_image(source)
    with pytest.raises(ImageError, match=r"the PIL image: expected one of JPEG, .*, got EPS; .* call its load"):
        load_image(given)
    assert not (tmp_path / "started").exists()
    with contextlib.suppress(Exception):
        given.load()
    assert (tmp_path / "started").exists()  # what this is about


@pytest.mark.parametrize("format", ["JPEG", "MPO", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "AVIF"])
def test_every_format_that_is_promised_is_opened(format):
    if format not in Image.SAVE and (Image.init(), format not in Image.SAVE)[1]:
        pytest.skip("this Pillow writes no such files")
    assert load_image(encoded(Image.fromarray(COLORS), format)).shape == COLORS.shape


@pytest.mark.parametrize("format", ["TGA", "PCX", "ICO", "JPEG2000"])
def test_others_are_not_unless_they_are_loaded(format):
    if format not in Image.SAVE and (Image.init(), format not in Image.SAVE)[1]:
        pytest.skip("this Pillow writes no such files")
    data = encoded(Image.new("RGB", (16, 16), "red"), format)
    with pytest.raises(ImageError, match="supported formats are JPEG, MPO, PNG, WEBP, GIF, BMP, TIFF, PPM, AVIF, HEIF"):
        load_image(data)
    given = Image.open(io.BytesIO(data))
    given.load()
    assert load_image(given).shape == (16, 16, 3)


def test_what_is_no_file_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe.png")
    with (tmp_path / "large.png").open("wb") as file:
        file.truncate(2**31 + 1)  # it takes no place on disk
    for path in (tmp_path / "pipe.png", "/dev/zero"):
        with pytest.raises(ImageError, match="expected an image file, got a pipe, a socket or a device; copy it"):
            load_image(path)
    with pytest.raises(ImageError, match=r"large\.png: expected an image file of at most 2 GiB, got 2\.0 GiB"):
        load_image(tmp_path / "large.png")
    (tmp_path / "link.png").symlink_to(tmp_path / "absent.png")
    with pytest.raises(ImageError, match=r"link\.png: expected an image file, but there is nothing at this path"):
        load_image(tmp_path / "link.png")
    with pytest.raises(ImageError, match="expected a readable image file, got embedded null"):
        load_image("a\0.png")


def test_other_sources():
    with pytest.raises(ImageError, match=r"expected a path, bytes, a file object, .* or an array, got builtins\.list"):
        load_image([[0.0]])
    with pytest.raises(ImageError, match="expected a file opened in binary mode, got text; open it with mode 'rb'"):
        load_image(io.StringIO("text"))


@pytest.mark.parametrize("format", ["PNG", "JPEG", "progressive", "GIF", "BMP", "WEBP", "TIFF"])
@pytest.mark.parametrize("part", [0.1, 0.5, 0.9, 0.99])
def test_truncated_files_are_refused(format, part, tmp_path):
    options = {"progressive": True} if format == "progressive" else {}
    data = encoded(Image.fromarray(CAT), "JPEG" if options else format, **options)
    (tmp_path / "cat").write_bytes(data[: int(len(data) * part)])
    with pytest.raises(ImageError, match=r"cat: expected (a complete image, got one that is truncated|an image file)"):
        load_image(tmp_path / "cat")


@pytest.mark.parametrize("format", ["PNG", "JPEG"])
def test_a_truncated_pil_image_is_refused(format):
    data = encoded(Image.fromarray(CAT), format)
    with pytest.raises(ImageError, match="the PIL image: expected a complete image, got one that is truncated"):
        load_image(Image.open(io.BytesIO(data[: len(data) // 2])))


@pytest.mark.parametrize("format", ["PNG", "JPEG", "GIF", "BMP", "WEBP", "TIFF", "PPM"])
def test_damage_gives_an_image_or_an_image_error_and_nothing_else(format):
    data = np.frombuffer(encoded(Image.fromarray(COLORS), format), np.uint8)
    rng = np.random.default_rng(1)
    for _ in range(100):
        damaged = data.copy()
        places = rng.integers(0, min(len(data), 200), 3)
        damaged[places] = rng.integers(0, 256, 3)
        try:
            image = load_image(damaged.tobytes())
        except ImageError:
            continue
        assert 0 <= image.min() <= image.max() <= 1


@pytest.mark.parametrize("limit", [100 * 120 // 3, 100 * 120 - 1])  # PIL refuses the first, and at the second warns
@pytest.mark.parametrize("warning", ["error", "ignore"])  # a program that silences warnings gets the error all the same
def test_decompression_bomb(limit, warning, monkeypatch):
    data = encoded(Image.new("L", (100, 120)), "PNG")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)
    expected = rf"the bytes: expected at most {limit} pixels .* got more: .*(12000|100 x 120).*raise PIL\.Image\.MAX"
    with warnings.catch_warnings():
        warnings.simplefilter(warning)
        with pytest.raises(ImageError, match=expected):
            load_image(data)


def test_no_limit_when_pil_has_none(monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)
    assert load_image(encoded(Image.new("L", (100, 120)), "PNG")).shape == (120, 100, 3)


@pytest.mark.parametrize("shape", [(), (4,), (1, 4, 4, 3), (3, 4, 4, 2), (4, 4, 2), (3, 8, 8), (0, 4, 3), (4, 0)])
def test_arrays_of_other_shapes(shape):
    with pytest.raises(ImageError, match=r"the array: expected shape \(h, w\) or .* images have channels last"):
        load_image(np.zeros(shape, np.uint8))


@pytest.mark.parametrize("dtype", [np.int32, np.int64, np.int8, np.complex64])
def test_arrays_of_other_dtypes(dtype):
    with pytest.raises(ImageError, match=rf"expected uint8, uint16, bool or floats in \[0, 1\], got {np.dtype(dtype)}"):
        load_image(np.zeros((4, 4, 3), dtype))


@pytest.mark.parametrize(("value", "got"), [(1.5, "0, 1.5"), (-0.5, "-0.5, 0"), (255, "0, 255"), (np.nan, "nan, nan")])
def test_floats_out_of_range(value, got):
    values = np.zeros((4, 4, 3))
    values[1, 2, 0] = value
    with pytest.raises(ImageError, match=rf"the array: expected floats in \[0, 1\], got \[{got}\]; divide 0 to 255"):
        load_image(values)


@pytest.mark.usefixtures("users_view")
@pytest.mark.parametrize("size", [0, -1, (0, 5), (5, 0), 4.0, "4", (4, 5, 6)])
def test_sizes_that_are_none(size):
    with pytest.raises(ImageError, match=r"size: expected an int or \(height, width\), of at least 1 pixel, got"):
        load_image(COLORS, size=size)


@pytest.mark.usefixtures("users_view")
@pytest.mark.parametrize("size", [np.int64(4), [4, 4], np.array([4, 4])])
def test_integers_of_any_kind_are_sizes(size):
    assert load_image(COLORS, size=size).shape == (4, 4, 3)


# Sizes


@pytest.mark.parametrize(
    ("shape", "size", "expected"),
    [
        ((30, 45), None, (30, 45, 3)),
        ((30, 45), 16, (16, 16, 3)),
        ((45, 30), 64, (64, 64, 3)),
        ((30, 45), (7, 90), (7, 90, 3)),
        ((1, 1), 5, (5, 5, 3)),
        ((1, 20000), 224, (224, 224, 3)),  # without a 224 x 4480000 image on the way
    ],
)
def test_sizes(shape, size, expected):
    assert load_image(np.zeros(shape, np.uint8), size=size).shape == expected


@pytest.mark.parametrize(
    ("shape", "expected"), [((30, 40), (15, 20, 3)), ((40, 10), (20, 5, 3)), ((8, 20), (8, 20, 3))]
)
def test_the_longer_side(shape, expected):
    pixels = np.zeros(shape, np.uint8)
    pixels[:, : shape[1] // 2] = 255
    image = load_image(pixels, longest=20)
    assert image.shape == expected
    assert_pixels(image, load_image(pixels, size=expected[:2]))
    with pytest.raises(ImageError, match="longest: expected at least 1 pixel, and no size as well, got 0"):
        load_image(pixels, longest=0)
    with pytest.raises(ImageError, match="got 20 and size 10"):
        load_image(pixels, longest=20, size=10)


def test_the_crop_is_the_center():
    stripes = np.zeros((10, 30), np.uint8)
    stripes[:, 10:20] = 255
    assert_pixels(load_image(stripes, size=10), np.ones((10, 10, 3)))
    assert_pixels(load_image(stripes.T, size=10), np.ones((10, 10, 3)))


@pytest.mark.parametrize("photograph", [CAT, skimage.data.astronaut(), skimage.data.coffee().transpose(1, 0, 2)])
def test_imagenet_evaluation_matches_pil(photograph):
    # torchvision's Resize(256, bicubic), CenterCrop(224): its sizes and offsets, PIL's 8-bit arithmetic.
    image = Image.fromarray(photograph)
    width, height = image.size
    shorter = min(width, height)
    whole = (int(256 * width / shorter), int(256 * height / shorter))
    left, top = round((whole[0] - 224) / 2.0), round((whole[1] - 224) / 2.0)
    expected = image.resize(whole, Image.Resampling.BICUBIC).crop((left, top, left + 224, top + 224))
    assert_pixels(load_image(photograph, size=256)[16:240, 16:240], np.asarray(expected) / 255.0, atol=1.5 / 255)


def test_upsampling_does_not_overshoot():
    image = load_image(np.array([[0, 0, 255, 255]] * 4, np.uint8), size=64)
    assert (image.min(), image.max()) == (0, 1)


def test_resize_agrees_with_load_image_and_differentiates():
    image = CAT / np.float32(255)
    assert_pixels(jnp.clip(resize(image, (96, 144)), 0, 1), load_image(CAT, size=(96, 144)), atol=1e-5)
    batch = jax.random.uniform(jax.random.key(0), (2, 6, 5, 3))
    np.testing.assert_allclose(resize(batch, (4, 7))[1], resize(batch[1], (4, 7)), atol=1e-6)
    np.testing.assert_allclose(jax.jit(resize, static_argnums=1)(batch, (4, 7)), resize(batch, (4, 7)), atol=1e-6)
    check_grads(lambda images: resize(images, (4, 7)), (batch,), order=1, modes=("rev",))
    with pytest.raises(ImageError, match=r"size: expected \(height, width\) of at least 1 pixel each, got \(0, 3\)"):
        resize(batch, (0, 3))


# Writing


# Blurring


@pytest.mark.parametrize(
    ("sigma", "size"),
    [
        (1.5, None),  # 5 pixels on either side
        (0.4, None),
        (5.0, 11),  # RISE's: cut at one sigma
        (5.0, 61),  # larger than the image
        (2.0, 1),
    ],
)
def test_blur_equals_scipys(sigma, size):
    images = np.random.default_rng(0).random((2, 17, 12, 3), np.float32)
    reach = np.ceil(3 * sigma) if size is None else size // 2
    expected = scipy.ndimage.gaussian_filter(
        images.astype(float), sigma, axes=(1, 2), mode="nearest", truncate=reach / sigma
    )
    blurred = jax.jit(lambda images: blur(images, sigma, size=size))(images)
    np.testing.assert_allclose(blurred, expected, atol=1e-6)
    assert (size == 1) == (np.abs(expected - images).max() < 1e-2)


@pytest.mark.parametrize("size", [None, 5])
def test_blur_by_nothing(size):
    """At sigma 0, and at one so small that its square underflows."""
    images = np.random.default_rng(0).random((1, 6, 5, 3), np.float32)
    for sigma in (0.0, 1e-30):
        np.testing.assert_allclose(blur(images, sigma, size=size), images, rtol=1e-6)


def test_blur_keeps_a_constant_image_and_the_dtype():
    images = jnp.full((1, 6, 5, 3), 0.25)
    fn = jax.jit(lambda images: blur(images, 3.0))
    np.testing.assert_allclose(fn(images), images, rtol=1e-6)
    assert fn(images.astype(jnp.bfloat16)).dtype == jnp.bfloat16
    with jax.enable_x64(True):
        assert fn(np.zeros((1, 6, 5, 3))).dtype == jnp.float64


@pytest.mark.slow
def test_blur_may_have_a_traced_sigma():
    with jax.enable_x64(True):
        images = jax.random.uniform(jax.random.key(0), (1, 7, 6, 2), jnp.float64)
        total = jax.jit(lambda images, sigma: jnp.sum(jnp.sin(blur(images, sigma, size=5))))
        np.testing.assert_allclose(total(images, 1.3), jnp.sin(blur(images, 1.3, size=5)).sum(), rtol=1e-12)
        check_grads(total, (images, jnp.asarray(1.3)), order=1, modes=["rev"])
        assert jnp.abs(jax.grad(total, argnums=1)(images, 1.3)) > 1e-3
        assert jnp.isfinite(jax.grad(total, argnums=1)(images, 0.0))


@pytest.mark.parametrize("size", [0, 2, -1])
def test_blur_of_an_even_size_is_refused(size):
    with pytest.raises(ImageError, match=f"size: expected an odd number of pixels, got {size}"):
        blur(jnp.zeros((1, 6, 5, 3)), 1.0, size=size)


def test_png_round_trip_is_exact(tmp_path):
    save_image(tmp_path / "deep" / "folder" / "colors.png", COLORS / 255.0)
    assert_pixels(load_image(tmp_path / "deep" / "folder" / "colors.png"), COLORS / 255.0)
    values = np.random.default_rng(0).random((20, 30, 3))
    save_image(tmp_path / "values.PNG", values)
    assert_pixels(load_image(tmp_path / "values.PNG"), values, atol=0.5 / 255 + 1e-6)


def test_jpeg_and_gray(tmp_path):
    save_image(tmp_path / "cat.jpg", CAT / 255.0)
    assert (tmp_path / "cat.jpg").read_bytes().startswith(b"\xff\xd8\xff")
    assert np.abs(np.asarray(load_image(tmp_path / "cat.jpg")) - CAT / 255.0).mean() < 0.01
    save_image(tmp_path / "gray.png", jnp.array([[0.0, 1.0]]))
    assert_pixels(load_image(tmp_path / "gray.png"), [[[0] * 3, [1] * 3]])


def test_values_outside_are_clipped(tmp_path):
    save_image(tmp_path / "wide.png", np.array([[-3.0, 7.0]]))
    assert_pixels(load_image(tmp_path / "wide.png"), [[[0] * 3, [1] * 3]])


@pytest.mark.usefixtures("users_view")
@pytest.mark.parametrize(
    ("name", "image", "match"),
    [
        ("cat.gif", np.zeros((4, 4, 3)), r"cat\.gif: expected a name ending in \.png, \.jpg, \.jpeg, got '\.gif'"),
        ("cat", np.zeros((4, 4, 3)), r"cat: expected a name ending in .*, got ''"),
        ("batch.png", np.zeros((1, 4, 4, 3)), r"expected one image \(h, w, c\) or \(h, w\), got shape \(1, 4, 4, 3\)"),
        ("empty.png", np.zeros((0, 4, 3)), r"got shape \(0, 4, 3\)"),
        (
            "bytes.png",
            np.full((4, 4), 60, np.uint8),
            r"bytes\.png: expected floats in \[0, 1\], got uint8; divide 0 to",
        ),
        ("nan.png", np.full((4, 4), np.nan), r"nan\.png: expected finite values, got 16 that are NaN or infinite"),
        ("inf.png", np.array([[0, np.inf]]), r"inf\.png: expected finite values, got 1 that are NaN or infinite"),
    ],
)
def test_nothing_is_written_when_saving_fails(name, image, match, tmp_path):
    with pytest.raises(ImageError, match=match):
        save_image(tmp_path / "new" / name, image)
    assert list(tmp_path.iterdir()) == []


def test_saving_replaces_a_file_whole(tmp_path, monkeypatch):
    path = tmp_path / "cat.png"
    save_image(path, np.zeros((4, 4)))
    monkeypatch.setattr(os, "replace", lambda *paths: (_ for _ in ()).throw(OSError("disk")))
    with pytest.raises(OSError, match="disk"):
        save_image(path, np.ones((4, 4)))
    assert_pixels(load_image(path), np.zeros((4, 4, 3)))
    assert list(tmp_path.iterdir()) == [path]


# Maps for the eye


def test_normalize_unsigned():
    maps = np.zeros((3, 10, 10), np.float32)
    maps[0] = np.arange(100).reshape(10, 10)
    maps[1, 0, 0] = 7  # more than 99% of it is zero
    expected = np.stack([np.minimum(maps[0] / np.percentile(maps[0], 99), 1), maps[1] / 7, maps[2]])
    np.testing.assert_allclose(normalize(maps), expected, atol=1e-6)
    np.testing.assert_allclose(normalize(maps, percentile=100)[0], maps[0] / 99, atol=1e-6)
    np.testing.assert_allclose(normalize(-maps), 0)


def test_normalize_signed():
    maps = np.random.default_rng(0).normal(size=(3, 8, 8, 3)).astype(np.float32)
    maps[2] = 0
    shown = normalize(maps, signed=True, percentile=100)
    largest = np.abs(maps[:2]).max((1, 2, 3), keepdims=True)
    np.testing.assert_allclose(shown[:2], 0.5 + maps[:2] / (2 * largest), atol=1e-6)
    np.testing.assert_array_equal(shown[2], 0.5)
    # The scale of one image says nothing about another's.
    np.testing.assert_allclose(normalize(maps * 1e-20, signed=True, percentile=100), shown, atol=1e-5)
    np.testing.assert_allclose(jax.jit(normalize, static_argnames="signed")(maps, signed=True)[0].mean(), 0.5, atol=0.1)


def test_normalize_errors():
    with pytest.raises(ImageError, match=r"maps: expected .* got shape \(4, 4\); pass one map as maps\[None\]"):
        normalize(np.zeros((4, 4)))
    with pytest.raises(ImageError, match=r"percentile: expected a number in \(0, 100\], got 0"):
        normalize(np.zeros((1, 4, 4)), percentile=0)


def test_montage_geometry():
    images = np.arange(1, 6, dtype=np.float32)[:, None, None, None] / 10 * np.ones((1, 3, 4, 3), np.float32)
    expected = np.full((3 * 2 + 5, 4 * 3 + 2 * 5, 3), 0.75)
    for index in range(5):
        top, left = index // 3 * 8, index % 3 * 9
        expected[top : top + 3, left : left + 4] = (index + 1) / 10
    assert_pixels(montage(images, gap=5, background=0.75), expected)
    assert_pixels(jax.jit(lambda images: montage(images, gap=5, background=0.75))(images), expected)
    assert_pixels(montage(images[..., 0], gap=5, background=0.75), expected)
    assert_pixels(montage(list(images), gap=5, background=0.75), expected)


@pytest.mark.parametrize(
    ("number", "columns", "gap", "shape"),
    [
        (1, None, 2, (3, 4, 3)),
        (4, None, 0, (6, 8, 3)),
        (6, 6, 1, (3, 29, 3)),
        (3, 1, 2, (13, 4, 3)),
        (2, 9, 2, (3, 10, 3)),
    ],
)
def test_montage_shapes(number, columns, gap, shape):
    assert montage(jnp.zeros((number, 3, 4, 3)), columns=columns, gap=gap).shape == shape


def test_montage_of_different_sizes_centers_them():
    pictures = [np.zeros((2, 2, 3), np.float32), np.full((4, 6), 0.5, np.float32)]
    expected = np.ones((4, 13, 3))
    expected[1:3, 2:4] = 0
    expected[:, 7:] = 0.5
    assert_pixels(montage(pictures, gap=1), expected)


@pytest.mark.parametrize("other", [np.float64, jnp.bfloat16])
def test_montage_of_different_types(x64, other):
    """What was computed in float64 beside a photograph of float32, also where types are promoted by hand only."""
    images = [np.full((2, 2, 3), 0.25, np.float32), np.full((2, 2), 0.5, other)]
    with jax.numpy_dtype_promotion("strict"):
        grid = montage(images, columns=2, gap=0)
    assert grid.dtype == np.promote_types(np.float32, other)
    np.testing.assert_array_equal(grid, np.repeat([[[0.25] * 3, [0.5] * 3]], 2, 0).repeat(2, 1))


def test_montage_errors():
    with pytest.raises(ImageError, match="montage: expected at least one image, got none"):
        montage([])
    with pytest.raises(ImageError, match="montage: expected at least one image, got none"):
        montage(np.zeros((0, 4, 4, 3)))
    with pytest.raises(ImageError, match=r"expected images \(h, w, c\) or \(h, w\), got one of shape \(3, 9, 9\)"):
        montage(np.zeros((2, 3, 9, 9)))
    with pytest.raises(ImageError, match=r"expected images \(h, w, c\) or \(h, w\), got one of shape \(4, 9, 9\)"):
        montage([np.zeros((4, 9, 9))])
    with pytest.raises(ImageError, match=r"got one of shape \(8,\)"):
        montage(np.zeros((8, 8)))
    with pytest.raises(ImageError, match="expected at least 1 column and a gap of at least 0, got 0 and 2"):
        montage(np.zeros((2, 4, 4)), columns=0)


def test_overlay_blends_gray_and_colors():
    import matplotlib

    image = jnp.asarray(COLORS / np.float32(255))
    heat = np.linspace(0, 3, 35).reshape(5, 7).astype(np.float32)
    gray = np.asarray(image) @ [0.299, 0.587, 0.114]
    for name in ("inferno", "viridis"):
        colors = matplotlib.colormaps[name](heat / 3)[..., :3]
        expected = 0.7 * gray[..., None] + 0.3 * colors
        assert_pixels(overlay(image, heat, alpha=0.3, colormap=name), expected, atol=0.01)
    assert_pixels(overlay(image, heat, alpha=0), np.repeat(gray[..., None], 3, 2), atol=1e-6)
    assert_pixels(jax.jit(overlay)(image, heat), overlay(image, heat), atol=1e-6)
    batched = jax.vmap(overlay)(jnp.stack([image, image]), jnp.stack([heat, 0 * heat]))
    assert_pixels(batched, jnp.stack([overlay(image, heat), image]), atol=1e-6)
    assert_pixels(overlay(image, 1e-30 * heat), overlay(image, heat), atol=1e-5)
    assert_pixels(overlay(image, heat - 1), overlay(image, np.maximum(heat - 1, 0)), atol=1e-6)


def test_overlay_resizes_small_maps():
    image = jnp.asarray(COLORS / np.float32(255))
    small = jnp.array([[0.0, 1.0], [0.0, 1.0]])
    large = jax.image.resize(small, (5, 7), "linear")
    assert_pixels(overlay(image, small), overlay(image, large), atol=1e-6)
    assert not np.allclose(overlay(image, small), overlay(image, small[:, ::-1]))


def test_overlay_of_nothing_is_the_image():
    image = jnp.asarray(COLORS / np.float32(255))
    assert_pixels(overlay(image, jnp.zeros((5, 7))), image, atol=0)
    assert_pixels(overlay(image, -jnp.ones((2, 2))), image, atol=0)
    assert np.isnan(overlay(image, jnp.zeros((5, 7)).at[1, 1].set(jnp.nan))).any()  # not taken for "nothing"


def test_overlay_errors():
    image = np.zeros((4, 4, 3), np.float32)
    with pytest.raises(ImageError, match=r"colormap: expected a name that matplotlib knows, .* got 'infernal'"):
        overlay(image, np.ones((4, 4), np.float32), colormap="infernal")
    with pytest.raises(ImageError, match=r"one map \(h, w\), got shapes \(4, 4, 3\) and \(1, 4, 4\)"):
        overlay(image, np.ones((1, 4, 4), np.float32))


def test_a_nan_is_not_lost():
    """XLA's maximum on CPU loses them from some size on."""
    image, bad = jnp.full((64, 64, 3), 0.5), jnp.zeros((64, 64)).at[3, 4].set(jnp.nan)
    assert jnp.isnan(jaxviz.overlay(image, bad)).any()
    score = lambda params, images: jnp.sqrt(images[..., 2] * 0).sum((1, 2)) + images[..., 0].sum((1, 2))
    assert jnp.isnan(jaxviz.saliency(score, None, image[None])).all()


@pytest.mark.usefixtures("users_view")
@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda x: blur(x, -1), "sigma: expected a number of at least 0, got -1"),
        (lambda x: blur(x, np.nan), "sigma: expected a number of at least 0, got nan"),
        (lambda x: blur(x, np.inf), "sigma: expected a number of at least 0, got inf"),
        (lambda x: blur(x, 1.0, size=2), "size: expected an odd number of pixels, got 2"),
        (lambda x: blur(x, 1.0, size=2.5), "size: expected an odd number of pixels, got 2.5"),
        (lambda x: blur(x[0], 1.0), r"images: expected \(n, h, w, c\), got shape .*; one image is image\[None\]"),
        (lambda x: blur(x.tolist(), 1.0), "images: expected a JAX or NumPy array, got a list"),
        (lambda x: resize(x, (2.5, 4)), r"at least 1 pixel each, got \(2.5, 4\)"),
        (lambda x: resize(x, (4,)), r"expected \(height, width\)"),
        (lambda x: resize(x[0, 0], (4, 4)), r"images: expected \(h, w, c\) or \(n, h, w, c\)"),
        (lambda x: normalize(x, percentile=np.nan), r"percentile: expected a number in \(0, 100\], got nan"),
        (lambda x: normalize([x]), "maps: expected a JAX or NumPy array, got a list"),
        (lambda x: montage(x, columns=2.5), "at least 1 column and a gap of at least 0, got 2.5 and 2"),
        (lambda x: montage(x, gap=0.5), "at least 1 column and a gap of at least 0, got 1 and 0.5"),
        (lambda x: overlay(x[0], x[0, ..., 0], alpha=-1), r"alpha: expected a weight in \[0, 1\], got -1"),
        (lambda x: overlay(x[0], x[0, ..., 0].tolist()), "map: expected a JAX or NumPy array, got a list"),
    ],
)
def test_numbers_without_a_meaning(call, message):
    with pytest.raises(ImageError, match=message):
        call(np.full((1, 6, 6, 3), 0.5, np.float32))
