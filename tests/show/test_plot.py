"""What is in the figures: axes, limits, titles; and the files that they are saved as."""

import subprocess
import sys

import jax.numpy as jnp
import matplotlib
import numpy as np
import pytest
from matplotlib.figure import Figure

import jaxviz

RNG = np.random.default_rng(0)
IMAGES = RNG.random((4, 8, 12, 3))
MAPS = RNG.normal(size=(4, 8, 12))
BOTH = {"gradient": MAPS, "LRP": 10 * RNG.normal(size=(4, 8, 12, 3))}


def limits(figure, count):
    return [axes.images[-1].get_clim() for axes in figure.axes[:count]]


def test_eight_maps_of_two_methods_with_a_shared_scale_and_a_color_bar(tmp_path):
    figure = jaxviz.plot(BOTH, columns=8, scale="shared", show_colorbar=True, path=tmp_path / "maps.pdf")
    assert isinstance(figure, Figure)
    assert len(figure.axes) == 9  # with the bar's own
    assert len({axes.get_subplotspec().rowspan.start for axes in figure.axes[:8]}) == 1
    ((low, high),) = set(limits(figure, 8))
    assert low == -high
    values = np.concatenate([MAPS.ravel(), BOTH["LRP"].sum(-1).ravel()])
    assert high == pytest.approx(np.percentile(np.abs(values), 99))
    assert [axes.get_title() for axes in figure.axes[:8]] == ["gradient", "", "", "", "LRP", "", "", ""]
    assert (tmp_path / "maps.pdf").read_bytes().startswith(b"%PDF")


def test_scales():
    each = limits(jaxviz.plot(BOTH), 8)
    assert len(set(each)) == 8
    for (_, high), one in zip(each, MAPS, strict=False):
        assert high == pytest.approx(np.percentile(np.abs(one), 99))
    rows = limits(jaxviz.plot(BOTH, scale="row"), 8)
    assert len(set(rows[:4])) == len(set(rows[4:])) == 1
    assert rows[0] != rows[4]
    assert limits(jaxviz.plot(MAPS, outlier_perc=0), 1)[0][1] == pytest.approx(np.abs(MAPS[0]).max())
    bars = lambda scale: len(jaxviz.plot(BOTH, scale=scale, show_colorbar=True).axes) - 8
    assert [bars(scale) for scale in ("each", "row", "shared")] == [8, 2, 1]


def test_signs():
    shown = lambda **options: jaxviz.plot(MAPS, **options).axes[0].images[0]
    signs = ("all", "positive", "negative", "absolute_value")
    drawn = {sign: np.asarray(shown(sign=sign).get_array()) for sign in signs}
    np.testing.assert_allclose(drawn["all"], MAPS[0])
    np.testing.assert_allclose(drawn["positive"], np.maximum(MAPS[0], 0))
    np.testing.assert_allclose(drawn["negative"], np.maximum(-MAPS[0], 0))
    np.testing.assert_allclose(drawn["absolute_value"], abs(MAPS[0]))
    assert shown().get_cmap().name == "RdBu_r"
    assert shown(sign="positive").get_cmap().name == "inferno"
    assert shown(sign="positive").get_clim()[0] == 0
    assert shown(cmap="viridis").get_cmap().name == "viridis"
    one_sided = jaxviz.plot([abs(MAPS), MAPS], scale="shared")  # one scale, so one sign
    assert {low for low, _ in limits(one_sided, 8)} == {-limits(one_sided, 1)[0][1]}
    assert limits(jaxviz.plot(np.zeros((1, 4, 4))), 1) == [(0, 1)]


def test_single_images_of_any_sizes_maps_and_lines():
    images = [IMAGES[0], IMAGES[1, :6, :9], 0.01 * IMAGES[2]]  # one is dark, which by itself could be a map
    figure = jaxviz.plot({"three": images, "one": IMAGES[3], "map": MAPS[0], "maps": [MAPS[1], MAPS[2, :5]]}, columns=8)
    assert [axes.images[-1].get_array().shape[:2] for axes in figure.axes[:7]] == [
        (8, 12), (6, 9), (8, 12), (8, 12), (8, 12), (8, 12), (5, 12)
    ]  # fmt: skip
    np.testing.assert_allclose(figure.axes[2].images[-1].get_array(), images[2], atol=1e-6)
    points = jaxviz.plot(RNG.normal(size=(30, 2)))
    assert points.axes[0].collections[0].get_offsets().shape == (30, 2)
    lines = jaxviz.plot({"loss": np.arange(5.0), "other": jnp.ones(7)}).axes[0].lines
    assert [(line.get_label(), *line.get_ydata()[[0, -1]]) for line in lines] == [("loss", 0, 4), ("other", 1, 1)]


def test_images_beside_and_below():
    figure = jaxviz.plot(BOTH, images=IMAGES, titles=list("abcd"), title="T")
    assert len(figure.axes) == 12
    np.testing.assert_allclose(figure.axes[1].images[0].get_array(), IMAGES[1])
    assert [axes.get_title() for axes in figure.axes[:4]] == list("abcd")
    assert [figure.axes[i].get_ylabel() for i in (0, 4, 8)] == ["", "gradient", "LRP"]
    assert figure.get_suptitle() == "T"
    coarse = jaxviz.plot(MAPS[:, ::4, ::4], images=IMAGES, method="blended_heat_map", show_images=False)
    gray, heat = coarse.axes[0].images
    assert gray.get_array().shape == (8, 12)
    assert heat.get_array().shape == (2, 3)
    assert list(heat.get_extent()) == list(gray.get_extent()) == [-0.5, 11.5, 7.5, -0.5]
    assert heat.get_alpha() == 0.5


def test_masks_and_colors():
    share = np.zeros((4, 8, 12))
    share[:, :, :6] = 1
    masked = jaxviz.plot(share, images=IMAGES, method="masked_image", show_images=False)
    scaled = jaxviz.plot(share, images=IMAGES, method="alpha_scaling", show_images=False)
    for figure, background in ((masked, 0), (scaled, 1)):
        drawn = np.asarray(figure.axes[2].images[0].get_array())
        np.testing.assert_allclose(drawn[:, :6], IMAGES[2, :, :6])
        assert np.all(drawn[:, 6:] == background)
    colors = jaxviz.plot(BOTH["LRP"], method="colors", outlier_perc=0).axes[0].images[0].get_array()
    np.testing.assert_allclose(colors, 0.5 + BOTH["LRP"][0] / abs(BOTH["LRP"][0]).max() / 2)


def test_results_and_rows_of_a_sweep():
    found = jaxviz.Synthesis(jnp.asarray(IMAGES, jnp.float32), jnp.zeros(3), [], True)
    figure = jaxviz.plot({0.1: found, 1.0: found})
    assert [figure.axes[i].get_ylabel() for i in (0, 4)] == ["0.1", "1.0"]
    assert len(jaxviz.plot(RNG.random((11, 4, 4, 1))).axes) == 11  # on two lines
    curve = jaxviz.Curve(RNG.random((3, 20)), RNG.random(3))
    (axes,) = jaxviz.plot({"a": curve, "b": curve}).axes
    assert len(axes.lines) == 6
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["a", "b"]
    relevance = jaxviz.Relevance(RNG.normal(size=(2, 3, 8, 8, 3)), RNG.random((2, 3)))
    assert len(jaxviz.plot(relevance).axes) == 6


MAGIC = {"png": b"\x89PNG\r\n\x1a\n", "pdf": b"%PDF-", "svg": b"<?xml", "webp": b"RIFF"}


@pytest.mark.parametrize("suffix", MAGIC)
def test_files(suffix, tmp_path):
    path = tmp_path / f"figure.{suffix}"
    before = dict(matplotlib.rcParams)
    figure = jaxviz.plot(MAPS[:1], path=path)
    first = path.read_bytes()
    assert first.startswith(MAGIC[suffix])
    assert {"svg": b"<svg", "webp": b"WEBP"}.get(suffix, b"") in first
    assert dict(matplotlib.rcParams) == before
    jaxviz.plot(MAPS[:1], path=path)
    assert path.read_bytes() == first  # the same figure is the same file
    figure.savefig(tmp_path / f"again.{suffix}")
    assert (tmp_path / f"again.{suffix}").read_bytes().startswith(MAGIC[suffix])


def test_pyplot_is_left_alone(tmp_path):
    script = f"""
import sys, numpy as np, jaxviz
figure = jaxviz.plot(np.ones((1, 4, 4)), path={str(tmp_path / "a.png")!r})
assert "matplotlib.pyplot" not in sys.modules
assert figure._repr_png_().startswith(b"\\x89PNG")
import matplotlib.pyplot as plt
before = plt.get_backend()
jaxviz.plot(np.ones((1, 4, 4)))
assert plt.get_fignums() == [] and plt.get_backend() == before
"""
    subprocess.run([sys.executable, "-c", script], check=True)


@pytest.mark.usefixtures("users_view")
@pytest.mark.parametrize(
    ("what", "options", "message"),
    [
        (IMAGES[:0], {}, r"got shape \(0, 8, 12, 3\)"),
        (MAPS[0][:, :3], {}, r"got shape \(8, 3\)"),
        (MAPS[:, :0], {}, r"got shape \(4, 0, 12\)"),
        ([0.001 * IMAGES[0], 0.001 * IMAGES[1]], {}, r"got \(8, 12, 3\) .* which may be either"),
        (np.full((1, 8, 8, 3), 1e-3), {}, "which may be either: say kind='images' or kind='maps'"),
        (IMAGES * 1.05, {}, "which may be either"),
        (np.where(IMAGES > 0.9, np.nan, IMAGES), {}, "got NaN or infinite values in number 0"),
        (np.where(MAPS > 0.5, np.nan, MAPS), {}, "expected finite maps, got NaN or infinite values in number 0"),
        (IMAGES * 4, {"kind": "images"}, "kind='maps' draws it as a map"),
        ("maps.npz", {}, "expected a result, images .*, got str"),
        ([], {}, "expected at least one image or map, got none"),
        (MAPS, {"images": IMAGES[:3]}, "images: expected one for each of 4 maps, got 3"),
        (MAPS, {"method": "blended_heat_map"}, "images: expected the images that the maps explain"),
        (MAPS, {"images": IMAGES, "method": "masked_image"}, "sign: expected 'positive', .* negative values"),
        (MAPS, {"method": "colors"}, r"expected maps \(n, h, w, 3\) to be drawn in 'colors', got one \(8, 12\)"),
        (BOTH["LRP"], {"method": "colors", "show_colorbar": True}, "show_colorbar: expected False for method 'colors'"),
        (MAPS, {"method": "heatmap"}, "method: expected 'heat_map', .* got 'heatmap'"),
        (MAPS, {"sign": "both"}, "sign: expected None, 'all', "),
        (MAPS, {"scale": "all"}, "scale: expected 'each', 'row' or 'shared', got 'all'"),
        (MAPS, {"kind": "map"}, "kind: expected None, 'images' or 'maps', got 'map'"),
        (MAPS, {"outlier_perc": 100}, "outlier_perc: expected a finite number of at least 0 and below 100, got 100"),
        (MAPS, {"alpha_overlay": 2}, r"alpha_overlay: expected a finite number in \[0, 1\], got 2"),
        (MAPS, {"columns": 0}, "columns: expected 1 or more, got 0"),
        (MAPS, {"cmap": "infernal"}, "cmap: expected a name that matplotlib knows, .* got 'infernal'"),
        (MAPS, {"titles": ["a"]}, "titles: expected 4, one for each column"),
        (MAPS, {"path": "maps.bmp"}, "path: expected a name that ends in .png, .svg, .pdf or .webp, got 'maps.bmp'"),
        ({"a": MAPS, "b": jaxviz.Curve(np.ones((1, 3)), np.ones(1))}, {}, "either results that are curves or images"),
    ],
)  # fmt: skip
def test_errors(what, options, message):
    with pytest.raises(ValueError, match=message):
        jaxviz.plot(what, **options)
