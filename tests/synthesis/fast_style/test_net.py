"""The style net: sizes, styles and mixtures, files, and the export that needs jax alone; its values in tests/parity."""

import functools
import itertools
import json
import subprocess
import sys
import textwrap

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import skimage.data
from safetensors.numpy import load_file, save_file
from scipy import ndimage

import jaxviz
from jaxviz.synthesis.fast_style._net import apply, by_number, mixture, reach, sizes_of


@pytest.fixture(scope="module")
def params():
    """Return a net of three styles that differ."""
    params = jaxviz.init_style_net(jax.random.key(0), width=3, blocks=2, styles=3)
    keys = iter(jax.random.split(jax.random.key(1), 40))
    for layer in params.values():
        for what in set(layer) & {"scale", "offset"}:
            layer[what] += 0.5 * jax.random.normal(next(keys), layer[what].shape, layer[what].dtype)
    return params


def picture(height, width, n=1, seed=3):
    # float32 whatever the default: in float64 the generator draws other numbers, on which no bound here was set
    return jax.random.uniform(jax.random.key(seed), (n, height, width, 3), jnp.float32)


@functools.partial(jax.jit, static_argnames="style")
def numbered(params, images, style):
    return jaxviz.style_net(params, images, style=style)


run = jax.jit(jaxviz.style_net)


@pytest.mark.parametrize("size", [(1, 1), (1, 6), (5, 8), (16, 16), (17, 30)])
@pytest.mark.slow
def test_the_output_has_the_size_of_the_input(params, size):
    made = numbered(params, picture(*size, n=2), 1)
    assert made.shape == (2, *size, 3)
    assert jnp.all((made >= 0) & (made <= 1))


@pytest.mark.slow
def test_sums_in_two_steps_as_on_gpus_are_the_same(params, monkeypatch):
    params, images = {name: of for name, of in params.items() if "block" not in name}, picture(17, 30, n=2)

    def made():
        return jax.jit(jax.value_and_grad(lambda params: jnp.sum(jaxviz.style_net(params, images) ** 2)))(params)

    once = made()
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    assert "optimization_barrier" in str(jax.make_jaxpr(jaxviz.style_net)(params, picture(8, 8)))
    largest = max(jnp.abs(x).max() for x in jax.tree.leaves(once))  # that of an offset before a normalization is 0
    for x, y in zip(jax.tree.leaves(once), jax.tree.leaves(made()), strict=True):
        np.testing.assert_allclose(x, y, atol=1e-5 * largest)


@pytest.mark.slow
def test_what_is_nearly_flat_has_a_variance(params, x64):
    """Far from zero, as a white page is: the net that comes with jaxviz has maps of 54 there."""
    images = 0.95 + 0.003 * jnp.asarray(picture(64, 64), jnp.float64)
    wide = jax.tree.map(lambda x: jnp.asarray(x, jnp.float64), params)
    wide["first"]["kernel"] = 40 * jnp.abs(wide["first"]["kernel"])
    mix = jnp.asarray([[1.0, 0.0, 0.0]])
    expected = jax.jit(apply)(wide, images, mix)
    narrow = jax.tree.map(lambda x: x.astype(jnp.float32), (wide, images, mix))
    made = jax.jit(apply)(*narrow)
    assert float(expected[1][0][0].min()) > 40
    np.testing.assert_allclose(made[1][0][1], expected[1][0][1], rtol=1e-3)
    np.testing.assert_allclose(made[0], expected[0], atol=0.01)  # maps of 50, rounded at 4e-6, deviate by 0.02 or so


def test_layers_have_names(params):
    found = jaxviz.layers(jaxviz.style_net, params, picture(17, 22))
    for name, shape in {
        "first": (1, 17, 22, 3), "down1": (1, 9, 11, 6), "down2": (1, 5, 6, 12), "block1": (1, 5, 6, 12),
        "block2": (1, 5, 6, 12), "up1": (1, 9, 11, 6), "up2": (1, 17, 22, 3),
    }.items():  # fmt: skip
        assert found[name].shape == shape
    assert not [name for name in found if name.startswith("dense")]


def test_it_sees_no_further_than_its_reach(params):
    """Given moments, a pixel depends on those within `reach` alone, and on some that are nearly as far."""
    images = picture(1, 161).repeat(8, 1)

    @jax.jit
    def slope(images):
        moments = apply(params, images, mixture(params, 0))[1]
        middle = lambda x: apply(params, x, mixture(params, 0), moments=moments)[0][:, :, 80].sum()
        return jax.grad(middle)(images)

    seen = np.flatnonzero(jnp.abs(slope(images)).sum((0, 1, 3)))
    assert reach(params) - 8 <= max(80 - seen.min(), seen.max() - 80) <= reach(params)


@pytest.mark.slow
def test_a_style_of_many_is_a_net_of_its_own(params):
    rows = {"scale", "offset"}
    images = picture(20, 21)
    for style in range(3):
        alone = {
            name: {what: x[style : style + 1] if what in rows else x for what, x in layer.items()}
            for name, layer in params.items()
        }
        np.testing.assert_allclose(numbered(params, images, style), numbered(alone, images, 0), atol=1e-5)


def test_each_image_has_a_style_of_its_own(params):
    images, rows = picture(12, 12, n=3), jnp.array([[0.0, 1, 0], [1, 0, 0], [0.2, 0.5, 0.3]])
    made = run(params, images, style=rows)
    for i in range(3):
        np.testing.assert_allclose(made[i : i + 1], run(params, images[i : i + 1], style=rows[i]), atol=1e-5)
    assert jnp.abs(made[0] - run(params, images[:1], style=rows[1])[0]).max() > 0.05


def test_mixing_moves_smoothly(params):
    images, rows = picture(24, 24), jnp.eye(3)
    along = [run(params, images, style=(1 - t) * rows[0] + t * rows[1]) for t in np.linspace(0, 1, 17)]
    steps = [float(jnp.abs(a - b).mean()) for a, b in itertools.pairwise(along)]
    assert max(steps) < 0.2 * float(jnp.abs(along[0] - along[-1]).mean())


def test_bfloat16_is_near(params):
    images = picture(24, 24)
    made = run(params, images.astype(jnp.bfloat16), style=jnp.eye(3, dtype=jnp.float32)[0])
    assert made.dtype == jnp.bfloat16
    assert (
        jnp.abs(made.astype(jnp.float32) - run(params, images, style=jnp.eye(3)[0]).astype(jnp.float32)).mean() < 0.03
    )


@pytest.mark.usefixtures("users_view")
@pytest.mark.parametrize(
    ("style", "message"),
    [
        (3, "style: expected one of 0 to 2, the styles of this net, got 3"),
        (-4, "style: expected one of 0 to 2"),
        (jnp.ones(2), r"weights of the 3 styles of this net, \(3,\) or \(n, 3\), got float\d\d of shape \(2,\)"),
        (jnp.array([1, 0, 0]), "got int"),
        (jnp.array([jnp.nan, 0, 0]), "expected finite weights"),
    ],
)
def test_styles_that_are_not_there(params, style, message):
    with pytest.raises(ValueError, match=message):
        jaxviz.style_net(params, picture(8, 8), style=style)


# Files


def test_a_file_keeps_a_net(params, tmp_path):
    jaxviz.save_style_net(tmp_path / "net.safetensors", params, ["a", "b", "c"])
    read, styles = jaxviz.load_style_net(tmp_path / "net.safetensors")
    assert styles == ["a", "b", "c"]
    assert jax.tree.structure(read) == jax.tree.structure(params)
    for ours, theirs in zip(jax.tree.leaves(read), jax.tree.leaves(params), strict=True):
        np.testing.assert_array_equal(ours, theirs.astype(jnp.float16).astype(jnp.float32))
    count = sum(x.size for x in jax.tree.leaves(params))
    assert (tmp_path / "net.safetensors").stat().st_size < 2 * count + 5000
    images = picture(20, 20)
    assert jnp.abs(numbered(read, images, 1) - numbered(params, images, 1)).max() < 0.02


@pytest.mark.slow
def test_the_net_that_comes_with_it():
    """Its palettes are those of its styles: night is blue, the scream red, ink without color."""
    net = jaxviz.load_style_net()
    photo = jaxviz.load_image(skimage.data.chelsea(), size=96)[None]
    made = {name: np.asarray(jaxviz.style_net(net, photo, style=name)[0]) for name in net.names}
    assert net.names == ["starry_night", "scream", "mosaic", "ink", "paper"]
    assert net.styles == [f"{name}@{size}" for name in net.names for size in (256, 512, 1024)]
    red, _, blue = np.moveaxis(np.stack([image.mean((0, 1)) for image in made.values()]), -1, 0)
    assert blue[0] > red[0] + 0.1
    assert red[1] > blue[1] + 0.1
    saturation = {name: np.ptp(image, -1).mean() for name, image in made.items()}
    assert min(saturation, key=lambda name: saturation[name]) == "ink"
    # Outlines stay: where the photograph is light, so is what is made of it.
    for image in made.values():
        smooth = [ndimage.gaussian_filter(picture.mean(-1), 3) for picture in (np.asarray(photo[0]), image)]
        assert np.corrcoef(*(picture.ravel() for picture in smooth))[0, 1] > 0.2


def test_files_that_are_refused(params, tmp_path):
    path = tmp_path / "net.safetensors"
    for styles in (["a", "b"], ["a", "b", "b"]):
        with pytest.raises(ValueError, match="styles: expected 3 unique names, got"):
            jaxviz.save_style_net(path, params, styles)
    assert not path.exists()
    save_file({"conv/kernel": np.zeros((3, 3), np.float16)}, path)
    with pytest.raises(ValueError, match="expected a net that save_style_net wrote, got another file"):
        jaxviz.load_style_net(path)
    cut = {name: layer for name, layer in params.items() if name != "up1"}
    jaxviz.save_style_net(path, cut, ["a", "b", "c"])
    with pytest.raises(ValueError, match="its tensors have other shapes"):
        jaxviz.load_style_net(path)
    path.write_bytes(b"no tensors")
    with pytest.raises(ValueError, match="expected weights"):
        jaxviz.load_style_net(path)
    with pytest.raises(FileNotFoundError):
        jaxviz.load_style_net(tmp_path / "none")


@pytest.mark.parametrize("styles", [[1, 2, 3], ["a", "a", "b"], ["", "a", "b"], {"a": 0, "b": 1, "c": 2}, "abc", None])
def test_names_that_do_not_tell_styles_apart(styles, params, tmp_path):
    """They are what a file says: of two of one name, one would be lost."""
    path = tmp_path / "net.safetensors"
    jaxviz.save_style_net(path, params, ["a", "../../b", "[/]"])
    assert jaxviz.load_style_net(path).styles == ["a", "../../b", "[/]"]  # what makes files of them sees to that
    save_file(load_file(path), path, {"jaxviz_style_net": json.dumps(styles)})
    with pytest.raises(ValueError, match=r"got another file .*expected unique names of styles, got "):
        jaxviz.load_style_net(path)


SCRIPT = """
    import sys
    sys.modules["jaxviz"] = None  # which makes its import an error
    import jax, numpy as np
    given = np.load(sys.argv[2])
    program = jax.export.deserialize(bytearray(open(sys.argv[1], "rb").read()))
    for size in ("a", "b", "c"):
        np.save(f"{sys.argv[3]}/{size}.npy", program.call(given[size], given["weights"]))
    assert [name for name in sys.modules if name.startswith("jaxviz")] == ["jaxviz"]
"""


@pytest.mark.slow
def test_the_export_needs_jax_alone(params, tmp_path):
    (tmp_path / "net.bin").write_bytes(jaxviz.export_style_net(params))
    images = {"a": picture(32, 33), "b": picture(47, 34), "c": picture(37, 64)}
    weights = np.array([0.5, 0.3, 0.2], np.float32)
    np.savez(tmp_path / "given.npz", weights=weights, **images)
    script = textwrap.dedent(SCRIPT)
    command = [sys.executable, "-c", script, *map(str, (tmp_path / "net.bin", tmp_path / "given.npz", tmp_path))]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr[-2000:]
    for name, image in images.items():
        expected = jaxviz.restyle(params, image[0], style=weights)
        np.testing.assert_allclose(np.load(tmp_path / f"{name}.npy")[0], expected, atol=1e-5)


def test_rows_of_weights_are_one_for_each_image(params):
    with pytest.raises(ValueError, match="expected one row of weights, or one for each of 2 images, got 3"):
        jaxviz.style_net(params, picture(8, 8, n=2), style=jnp.eye(3))


NAMES = ["scream", "night", "mosaic"]


def test_a_style_by_its_name(params):
    net, image = jaxviz.StyleNet(params, NAMES), picture(20, 24)
    np.testing.assert_array_equal(
        jaxviz.restyle(net, image[0], style="mosaic"), jaxviz.restyle(params, image[0], style=2)
    )
    mixed = jaxviz.style_net(net, image, style={"mosaic": 0.25, "scream": 0.75})
    np.testing.assert_array_equal(mixed, jaxviz.style_net(params, image, style=jnp.array([0.75, 0, 0.25], jnp.float32)))


@pytest.mark.parametrize(
    ("named", "style", "message"),
    [
        (True, "screem", "expected one of scream, night, mosaic, the styles of this net, got 'screem'; did you mean"),
        (True, {"night": 1.0, "day": 1.0}, "the styles of this net, got 'day'"),
        (True, {}, "expected names with weights, got none"),
        (False, "scream", "parameters do not know the names of their styles. Give what load_style_net returns"),
    ],
)
def test_a_style_of_no_such_name(params, named, style, message):
    net = jaxviz.StyleNet(params, NAMES) if named else params
    with pytest.raises(ValueError, match=message):
        jaxviz.restyle(net, picture(20, 24)[0], style=style)
    with pytest.raises(ValueError, match=message):
        jaxviz.style_net(net, picture(20, 24), style=style)


@pytest.mark.parametrize(
    ("longest", "expected"),
    [
        (10, [1, 0, 0]),
        (64, [1, 0, 0]),
        (128, [0.5, 0.5, 0]),
        (256, [0, 1, 0]),
        (1024, [0, 0.5, 0.5]),
        (9999, [0, 0, 1]),
    ],
)
def test_strokes_fit_the_size_of_the_picture(longest, expected):
    """Each size has its own row; between two of them, in proportion to the logarithm."""
    names = ["night@4096", "scream@64", "night@64", "ink", "night@256"]
    weights = by_number(jaxviz.StyleNet(None, names), "night", longest)[1]
    np.testing.assert_allclose(weights[[2, 4, 0]], expected, atol=1e-6)
    assert weights.sum() == pytest.approx(1)
    np.testing.assert_array_equal(by_number(jaxviz.StyleNet(None, names), "night@256", longest)[1], np.eye(5)[4])
    mixed = by_number(jaxviz.StyleNet(None, names), {"night": 0.5, "ink": 0.5}, longest)[1]
    np.testing.assert_allclose(mixed, 0.5 * weights + 0.5 * np.eye(5)[3], atol=1e-7)


@pytest.mark.parametrize("name", ["a@b", "@64", "night@", "night@064", "night@-3", "night@²", "night@0"])
def test_a_name_that_ends_in_no_size_is_a_name(name):
    assert sizes_of([name, "night@64"]) == {name: [], "night": [64]}


def test_restyle_knows_the_size_of_its_picture(params):
    net, image = jaxviz.StyleNet(params, ["night@16", "night@32", "ink"]), picture(20, 32)
    np.testing.assert_array_equal(
        jaxviz.restyle(net, image[0], style="night"), jaxviz.restyle(params, image[0], style=1)
    )
    small = image[:, :8, :16]
    np.testing.assert_array_equal(
        jaxviz.style_net(net, small, style="night"),
        jaxviz.style_net(params, small, style=np.eye(3, dtype=np.float32)[0]),
    )
