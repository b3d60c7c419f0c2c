"""Color profiles and transparency, against arithmetic of our own: profiles and PNG files are written byte by byte."""

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image, ImageCms

from jaxviz.image._files import load_image

RANDOM = np.random.default_rng(0)
COLORS = RANDOM.integers(0, 256, (40, 50, 3), np.uint8)
COLORS[0, :5] = [[0, 0, 0], [255, 255, 255], [255, 0, 0], [0, 255, 0], [0, 0, 255]]
GREYS = np.arange(256, dtype=np.uint8).reshape(16, 16)
GREYS_16 = np.linspace(0, 65535, 4096).round().astype(np.uint16).reshape(64, 64)

# ICC profiles (ICC.1:2010), and what they say

D50 = np.array([0.9642, 1.0, 0.8249])
SRGB = [(0.64, 0.33), (0.3, 0.6), (0.15, 0.06)]
P3 = [(0.68, 0.32), (0.265, 0.69), (0.15, 0.06)]  # Display P3, with sRGB's white and curve
ADOBE = [(0.64, 0.33), (0.21, 0.71), (0.15, 0.06)]


def linear(x):
    return np.where(x <= 0.04045, x / 12.92, ((x + 0.055) / 1.055) ** 2.4)


def coded(x):
    x = np.clip(x, 0, 1)
    return np.where(x <= 0.0031308, 12.92 * x, 1.055 * x ** (1 / 2.4) - 0.055)


def matrix(primaries, white=(0.3127, 0.329)):
    """From linear RGB to XYZ relative to the white, D65."""
    columns = np.array([[x / y, 1, (1 - x - y) / y] for x, y in primaries]).T
    x, y = white
    return columns * np.linalg.solve(columns, [x / y, 1, (1 - x - y) / y])


def adaptation():
    """From D65 to D50, by Bradford's cone responses."""
    cones = np.array([[0.8951, 0.2664, -0.1614], [-0.7502, 1.7135, 0.0367], [0.0389, -0.0685, 1.0296]])
    return np.linalg.inv(cones) @ np.diag((cones @ D50) / (cones @ matrix(SRGB).sum(1))) @ cones


def fixed(*values):
    return b"".join(struct.pack(">i", round(value * 65536)) for value in values)


def curve(gamma):
    """A power, or sRGB's own curve for None."""
    if gamma is None:
        return b"para\0\0\0\0\0\3\0\0" + fixed(2.4, 1 / 1.055, 0.055 / 1.055, 1 / 12.92, 0.04045)
    return b"para\0\0\0\0\0\0\0\0" + fixed(gamma)


def profile(space, pcs, kind, **tags):
    body, table, start = b"", struct.pack(">I", len(tags)), 128 + 4 + 12 * len(tags)
    for name, data in tags.items():
        table += struct.pack(">4sII", name.encode(), start + len(body), len(data))
        body += data + b"\0" * (-len(data) % 4)
    size = 128 + len(table) + len(body)
    head = struct.pack(">I4xI4s4s4s12x4s28x", size, 0x02400000 if pcs == b"Lab " else 0x04200000, kind, space, pcs,
                       b"acsp") + fixed(*D50)  # fmt: skip
    return head.ljust(128, b"\0") + table + body


def rgb_profile(primaries, gamma=None):
    columns = (adaptation() @ matrix(primaries)).T
    xyz = {f"{name}XYZ": b"XYZ \0\0\0\0" + fixed(*column) for name, column in zip("rgb", columns, strict=True)}
    curves = {f"{name}TRC": curve(gamma) for name in "rgb"}
    return profile(b"RGB ", b"XYZ ", b"mntr", wtpt=b"XYZ \0\0\0\0" + fixed(*D50), **xyz, **curves)


def gray_profile(gamma=None):
    return profile(b"GRAY", b"XYZ ", b"mntr", wtpt=b"XYZ \0\0\0\0" + fixed(*D50), kTRC=curve(gamma))


def expected(colors, primaries, gamma=None):
    light = linear(colors / 255) if gamma is None else (colors / 255) ** gamma
    return coded(light @ (np.linalg.inv(matrix(SRGB)) @ matrix(primaries)).T)


LAB = RANDOM.integers(40, 216, (2, 2, 2, 2, 3))  # of the 16 corners of CMYK, in 8 bits
LAB[0, 0, 0, 0], LAB[1, 1, 1, 1] = (
    [255, 128, 128],
    [0, 128, 128],
)  # white; black, so that there is nothing to compensate
LAB[..., 1:] = 128 + (LAB[..., 1:] - 128) // 4  # mostly inside sRGB


def cmyk_profile():
    ramp = bytes(range(256))
    head = b"mft1\0\0\0\0" + bytes([4, 3, 2, 0]) + fixed(1, 0, 0, 0, 1, 0, 0, 0, 1)
    table = head + 4 * ramp + LAB.astype(np.uint8).tobytes() + 3 * ramp
    return profile(b"CMYK", b"Lab ", b"prtr", wtpt=b"XYZ \0\0\0\0" + fixed(*D50), A2B0=table, A2B1=table)


def from_lab(lab):
    lightness, a, b = np.moveaxis(lab * [100 / 255, 1, 1] - [0, 128, 128], -1, 0)
    y = (lightness + 16) / 116
    f = np.stack([y + a / 500, y, y - b / 200], -1)
    xyz = np.where(f > 6 / 29, f**3, 3 * (6 / 29) ** 2 * (f - 4 / 29)) * D50
    return coded(xyz @ np.linalg.inv(adaptation() @ matrix(SRGB)).T)


def encoded(image, format, **options):
    buffer = io.BytesIO()
    (image if isinstance(image, Image.Image) else Image.fromarray(image)).save(buffer, format, **options)
    return buffer.getvalue()


LEVEL = 1 / 255  # Little CMS is off by 0.72 of a level from exact arithmetic, of which rounding is 0.5


@pytest.mark.parametrize(
    ("primaries", "gamma"), [(P3, None), (ADOBE, 2.2), (ADOBE, 1.0)], ids=["Display P3", "Adobe RGB", "linear"]
)
def test_colors_of_a_wider_gamut_become_those_of_srgb(primaries, gamma):
    found = load_image(encoded(COLORS, "PNG", icc_profile=rgb_profile(primaries, gamma)))
    np.testing.assert_allclose(found, expected(COLORS, primaries, gamma), rtol=0, atol=LEVEL)
    assert abs(np.asarray(found) - COLORS / 255).max() > 50 / 255


@pytest.mark.parametrize("format", ["PNG", "JPEG", "WEBP", "TIFF", "MPO", "AVIF"])
def test_profiles_of_every_format(format):
    options = {"lossless": True} if format == "WEBP" else {}
    if format not in Image.SAVE and not (Image.init() or format in Image.SAVE):
        pytest.skip("this Pillow writes no such files")
    plain = np.asarray(load_image(encoded(COLORS, format, **options)))
    found = load_image(encoded(COLORS, format, icc_profile=rgb_profile(P3), **options))
    np.testing.assert_allclose(found, expected(255 * plain, P3), rtol=0, atol=LEVEL)
    same = load_image(encoded(COLORS, format, icc_profile=rgb_profile(SRGB), **options))
    np.testing.assert_array_equal(same, plain)


def test_profiles_of_images_that_are_not_plain_rgb():
    icc, wanted = rgb_profile(P3), expected(COLORS, P3)
    opacity = RANDOM.integers(0, 256, (40, 50, 1), np.uint8)
    found = load_image(encoded(np.dstack([COLORS, opacity]), "PNG", icc_profile=icc))
    np.testing.assert_allclose(found, wanted * (opacity / 255) + 1 - opacity / 255, rtol=0, atol=LEVEL)
    palette = Image.fromarray(GREYS % 4, "L").copy()
    palette.putpalette(COLORS[0, 1:5].tobytes())
    found = load_image(encoded(palette, "PNG", icc_profile=icc, transparency=bytes([255, 0, 255, 255])))
    np.testing.assert_allclose(found[0, :4], [[1, 1, 1], [1, 1, 1], *wanted[0, 3:5]], rtol=0, atol=LEVEL)
    given = Image.fromarray(COLORS)
    given.info["icc_profile"] = icc
    np.testing.assert_allclose(load_image(given), wanted, rtol=0, atol=LEVEL)
    np.testing.assert_array_equal(np.asarray(given), COLORS)


@pytest.mark.parametrize("icc", [gray_profile(1.8), rgb_profile(ADOBE, 1.8)], ids=["gray", "RGB"])
def test_gray_of_another_curve(icc):
    wanted = np.repeat(coded((GREYS / 255) ** 1.8)[..., None], 3, -1)
    np.testing.assert_allclose(load_image(encoded(GREYS, "PNG", icc_profile=icc)), wanted, rtol=0, atol=LEVEL)
    alpha = np.full_like(GREYS, 51)
    found = load_image(encoded(np.dstack([GREYS, alpha]), "PNG", icc_profile=icc))
    np.testing.assert_allclose(found, 0.2 * wanted + 0.8, rtol=0, atol=LEVEL)


@pytest.mark.parametrize("format", ["PNG", "TIFF"])
def test_gray_of_16_bits_keeps_them(format):
    found = load_image(encoded(GREYS_16, format, icc_profile=gray_profile(1.8)))
    wanted = coded((GREYS_16 / 65535) ** 1.8)[..., None]
    np.testing.assert_allclose(found, np.repeat(wanted, 3, -1), rtol=0, atol=1.1 / 65535)


def test_inks_by_their_profile():
    corners = np.stack(np.meshgrid(*4 * [[0, 255]], indexing="ij"), -1).reshape(1, 16, 4).astype(np.uint8)
    image = Image.frombytes("CMYK", (16, 1), corners.tobytes())
    found = load_image(encoded(image, "TIFF", icc_profile=cmyk_profile()))
    wanted = from_lab(LAB.reshape(1, 16, 3))
    np.testing.assert_allclose(found, wanted, rtol=0, atol=1.5 * LEVEL)
    assert abs(np.asarray(load_image(encoded(image, "TIFF"))) - wanted).max() > 50 / 255


SAME = {
    "Little CMS": ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes(),
    "by hand": rgb_profile(SRGB),
    "gray": gray_profile(),
}


@pytest.mark.parametrize("icc", SAME.values(), ids=SAME)
@pytest.mark.parametrize("pixels", [COLORS, GREYS, GREYS_16, np.dstack([COLORS, COLORS[..., :1]])])
def test_an_srgb_profile_changes_nothing(pixels, icc):
    found = load_image(encoded(pixels, "PNG", icc_profile=icc))
    np.testing.assert_array_equal(found, load_image(encoded(pixels, "PNG")))


def damaged():
    good = rgb_profile(P3)
    yield from (good[:50], good[:200], good[:-200], b"no profile at all", b"\0" * 500, b"\xff" * 128)
    for _ in range(30):
        bytes = np.frombuffer(good, np.uint8).copy()
        bytes[RANDOM.integers(0, len(good), 20)] = RANDOM.integers(0, 256, 20)
        yield bytes.tobytes()


def test_damaged_profiles_do_not_cost_the_photograph():
    plain = load_image(COLORS)
    for i, icc in enumerate(damaged()):
        found = load_image(encoded(COLORS, "PNG", icc_profile=icc))
        assert found.shape == plain.shape
        assert np.isfinite(np.asarray(found)).all()
        if i < 6:  # of the others, Little CMS takes some
            np.testing.assert_array_equal(found, plain)


def test_a_profile_of_other_pixels_is_ignored():
    for pixels, icc in [(COLORS, gray_profile(1.8)), (COLORS, cmyk_profile()), (GREYS_16, rgb_profile(ADOBE, 1.8))]:
        found = load_image(encoded(pixels, "TIFF", icc_profile=icc))
        np.testing.assert_array_equal(found, load_image(encoded(pixels, "TIFF")))
    cmyk = Image.new("CMYK", (2, 2), (10, 200, 30, 40))
    np.testing.assert_array_equal(load_image(encoded(cmyk, "TIFF", icc_profile=rgb_profile(P3))), load_image(cmyk))


# Transparency


def png(kind, depth, rows, *, key=b"", palette=b""):
    """A PNG file of rows of samples."""

    def chunk(name, data):
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    packed = b""
    for row in rows:
        bits = "".join(format(sample, f"0{depth}b") for sample in row)
        bits += "0" * (-len(bits) % 8)
        packed += b"\0" + int(bits, 2).to_bytes(len(bits) // 8, "big")
    samples = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}[kind]
    head = struct.pack(">IIBBBBB", len(rows[0]) // samples, len(rows), depth, kind, 0, 0, 0)
    chunks = [(b"IHDR", head), (b"PLTE", palette), (b"tRNS", key), (b"IDAT", zlib.compress(packed)), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*each) for each in chunks if each[1] or each[0] == b"IEND")


@pytest.mark.parametrize("depth", [1, 2, 4, 8, 16])
def test_a_transparent_gray_of_any_depth(depth):
    top = 2**depth - 1
    levels = np.unique([0, 1, top // 3, top // 2, top]).tolist()
    for key in levels:
        found = load_image(png(0, depth, [levels], key=struct.pack(">H", key)))
        wanted = [1.0 if level == key else level / top for level in levels]
        np.testing.assert_allclose(found[0], np.repeat(np.array(wanted)[:, None], 3, 1), rtol=0, atol=1e-7)


@pytest.mark.parametrize(
    ("depth", "unit", "key"), [(8, 255, (1, 2, 3)), (16, 257 * 255, (258, 514, 770)), (16, 257 * 255, (0, 0, 0))]
)
def test_a_transparent_color_is_compared_in_all_its_bits(depth, unit, key):
    near = [key, (key[0] + 1, *key[1:]), (*key[:2], key[2] + 1), (60, 70, 80)]
    found = load_image(png(2, depth, [sum(near, ())], key=struct.pack(">3H", *key)))
    wanted = np.array(near) / unit
    wanted[0] = 1
    np.testing.assert_allclose(found[0], wanted, rtol=0, atol=1e-7 if depth == 8 else LEVEL)


@pytest.mark.parametrize("depth", [1, 2, 4, 8])
def test_a_palette_with_opacities(depth):
    colors = [[10, 20, 30], [200, 100, 0]]
    data = png(3, depth, [[0, 1]], palette=bytes(np.array(colors, np.uint8)), key=bytes([51]))
    wanted = np.array(colors) / 255 * [[0.2], [1]] + [[0.8], [0]]
    np.testing.assert_allclose(load_image(data)[0], wanted, rtol=0, atol=1e-7)


@pytest.mark.parametrize("depth", [8, 16])
def test_opacity_in_png(depth):
    top = 2**depth - 1
    found = load_image(png(4, depth, [[0, 0, 0, top // 5, top, top]]))
    np.testing.assert_allclose(found[0, :, 0], [1, 0.8, 1], rtol=0, atol=1e-6)
    found = load_image(png(6, depth, [[top, 0, 0, 0, top, 0, 0, top // 5, top, 0, 0, top]]))
    np.testing.assert_allclose(found[0], [[1, 1, 1], [1, 0.8, 0.8], [1, 0, 0]], rtol=0, atol=1e-6)


@pytest.mark.parametrize("mode", ["LA", "La", "PA", "RGBA", "RGBa"])
def test_opacity_in_every_mode_of_pil(mode):
    steps = ["RGBA", "LA", "La"] if mode == "La" else ["RGBA", mode]
    image = Image.fromarray(np.array([[[80, 80, 80, 0], [80, 80, 80, 51], [80, 80, 80, 255]]], np.uint8))
    for step in steps:
        image = image.convert(step)
    assert image.mode == mode
    found = load_image(image)[0, :, 0]
    np.testing.assert_allclose(found, [1, 80 / 255 * 0.2 + 0.8, 80 / 255], rtol=0, atol=LEVEL)  # of premultiplied ones


@pytest.mark.parametrize("format", ["WEBP", "AVIF", "TIFF", "GIF"])
def test_opacity_in_other_formats(format):
    Image.init()
    if format not in Image.SAVE:
        pytest.skip("this Pillow writes no such files")
    image = np.full((16, 16, 4), (0, 0, 255, 255), np.uint8)
    image[:, :8] = (0, 255, 0, 0)
    options = {"WEBP": {"lossless": True}, "AVIF": {"quality": 100, "subsampling": "4:4:4"}}.get(format, {})
    found = load_image(encoded(image, format, **options))
    np.testing.assert_allclose(found[:, :8], np.ones((16, 8, 3)), rtol=0, atol=1e-6)
    np.testing.assert_allclose(found[:, 8:], np.broadcast_to([0.0, 0, 1], (16, 8, 3)), rtol=0, atol=4 / 255)


@pytest.mark.parametrize(("extra", "stored"), [(1, 40), (2, 200)], ids=["associated", "unassociated"])
def test_opacity_in_tiff_of_both_kinds(extra, stored):
    data = encoded(np.full((4, 4, 4), (stored, stored, stored, 51), np.uint8), "TIFF")
    entry = struct.pack("<HHI", 338, 3, 1)  # ExtraSamples, of which PIL writes unassociated ones
    assert entry + b"\2" in data
    data = data.replace(entry + b"\2", entry + bytes([extra]))
    assert Image.open(io.BytesIO(data)).tag_v2[338] == (extra,)
    found = load_image(data)
    np.testing.assert_allclose(found, np.full((4, 4, 3), 200 / 255 * 0.2 + 0.8), rtol=0, atol=LEVEL)
