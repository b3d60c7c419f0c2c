"""Principal components against the eigenvectors of the covariance, t-SNE by what it keeps, grids by brute force."""

import itertools
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.manifold import trustworthiness

import jaxviz
from jaxviz.activation import _grid_layout

KEY = jax.random.key(0)
RANDOM = np.random.default_rng(0)


def test_pca_is_the_eigenvectors_of_the_covariance():
    x = RANDOM.normal(size=(40, 6)) * [5, 4, 3, 2, 1, 0.5] + 7
    found = jaxviz.pca(x, components=3)
    values, vectors = np.linalg.eigh(np.cov(x.T))
    np.testing.assert_allclose(abs(np.sum(found.axes * vectors[:, :-4:-1].T, axis=1)), 1, rtol=1e-9)
    np.testing.assert_allclose(found.explained, values[:-4:-1] / values.sum(), rtol=1e-9)
    np.testing.assert_allclose(found.points, (x - x.mean(0)) @ found.axes.T, atol=1e-9)
    whole = jaxviz.pca(x, components=6)
    np.testing.assert_allclose(whole.points @ whole.axes + whole.mean, x, atol=1e-9)
    np.testing.assert_allclose(whole.explained.sum(), 1)


def test_pca_takes_maps_and_images(images):
    assert jaxviz.pca(images, components=1).axes.shape == (1, 32 * 32 * 3)


def clusters():
    centers = 10 * RANDOM.normal(size=(3, 64))
    return np.concatenate([center + RANDOM.normal(size=(40, 64)) for center in centers])


def test_tsne_keeps_neighbors():
    x = clusters()
    points = jaxviz.tsne(x, KEY, perplexity=15, steps=500)
    assert points.shape == (120, 2)
    assert trustworthiness(x, points, n_neighbors=10) > 0.85
    assert trustworthiness(x, RANDOM.permutation(points), n_neighbors=10) < 0.6
    near = jaxviz.neighbors(points, points, k=10, metric="l2").indices // 40
    assert (near == near[:, :1]).mean() > 0.99  # three groups, apart


def test_tsne_is_a_function_of_its_key():
    x = RANDOM.normal(size=(30, 1))  # one feature: it starts at random
    make = lambda key: jaxviz.tsne(x, key, perplexity=5, steps=300)
    np.testing.assert_array_equal(make(KEY), make(KEY))
    assert abs(make(KEY) - make(jax.random.key(1))).max() > 1e-2


def test_tsne_of_equal_points():
    assert np.isfinite(jaxviz.tsne(np.zeros((12, 3)), KEY, perplexity=3, steps=250)).all()


SCALES = [(2.0**66, np.float32), (2.0**-100, np.float32), (2.0**660, np.float64), (2.0**-660, np.float64)]


@pytest.mark.parametrize(("scale", "dtype"), SCALES)
def test_a_power_of_two_changes_nothing(scale, dtype):
    """Numbers at 1e20, 1e-30, 1e200 and 1e-200: to the bit, since nothing is rounded."""
    x = clusters()[::4].astype(dtype)
    large = (x * scale).astype(dtype)
    found, plain = jaxviz.pca(large, components=3), jaxviz.pca(x, components=3)
    np.testing.assert_array_equal(found.points, plain.points * dtype(scale))
    np.testing.assert_array_equal(found.mean, plain.mean * dtype(scale))
    np.testing.assert_array_equal(found.axes, plain.axes)
    np.testing.assert_array_equal(found.explained, plain.explained)
    made = jaxviz.tsne(large, KEY, perplexity=8, steps=400)
    np.testing.assert_array_equal(made, jaxviz.tsne(x, KEY, perplexity=8, steps=400))
    assert trustworthiness(x, made, n_neighbors=5) > 0.8
    np.testing.assert_array_equal(jaxviz.grid_layout(large[:, :2]), jaxviz.grid_layout(x[:, :2]))


@pytest.mark.foreign
def test_umap_of_large_numbers():
    pytest.importorskip("umap")
    x = clusters()[::4].astype(np.float32)
    np.testing.assert_array_equal(
        jaxviz.umap(x * np.float32(2.0**66), KEY, neighbors=5), jaxviz.umap(x, KEY, neighbors=5)
    )


def test_half_floats_up_to_their_largest():
    x = (RANDOM.uniform(-1, 1, size=(30, 2)) * 65000).astype(np.float16)
    np.testing.assert_array_equal(jaxviz.grid_layout(x), jaxviz.grid_layout(x.astype(np.float64)))
    make = lambda rows: jaxviz.tsne(rows, KEY, perplexity=5, steps=300)
    np.testing.assert_array_equal(make(x), make(x.astype(np.float64)))


def test_columns_that_are_constant():
    x = RANDOM.normal(size=(30, 4))
    x[:, 1] = 1e20
    found = jaxviz.pca(x[:, [0, 2, 3]], components=2)
    np.testing.assert_allclose(abs(jaxviz.pca(np.c_[x[:, [0, 2, 3]], np.full(30, 7.0)]).points), abs(found.points))
    assert np.isfinite(jaxviz.tsne(x, KEY, perplexity=5, steps=250)).all()
    nothing = jaxviz.pca(np.full((5, 3), 2.0))
    np.testing.assert_array_equal(nothing.explained, 0)
    np.testing.assert_array_equal(nothing.points, 0)


@pytest.mark.foreign
def test_umap_keeps_neighbors_and_is_a_function_of_its_key():
    pytest.importorskip("umap")
    x = clusters()
    points = jaxviz.umap(x, KEY, neighbors=10)
    near = jaxviz.neighbors(points, points, k=10, metric="l2").indices // 40
    assert (near == near[:, :1]).mean() > 0.99  # three groups, apart
    np.testing.assert_array_equal(jaxviz.umap(x, KEY, neighbors=10), points)
    assert abs(jaxviz.umap(x, jax.random.key(1), neighbors=10) - points).max() > 1e-2


def test_without_umap_learn_there_is_a_word_on_how_to_get_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "umap", None)  # as if it were not installed
    with pytest.raises(ImportError, match=r"umap needs umap-learn: pip install 'jaxviz-cnn\[umap\]'"):
        jaxviz.umap(np.eye(5), KEY, neighbors=2)


def cost(points, cells, rows, columns):
    unit = (points - points.min(0)) / (points.max(0) - points.min(0))
    return np.square(unit[:, ::-1] * (rows - 1, columns - 1) - cells).sum()


def test_a_grid_has_no_holes_and_is_the_best_there_is():
    points = RANDOM.normal(size=(7, 2))
    found = jaxviz.grid_layout(points, columns=3)
    assert sorted(map(tuple, found.tolist())) == [(0, 0), (0, 1), (0, 2), (1, 0), (1, 1), (1, 2), (2, 0)]
    cells = np.stack(np.divmod(np.arange(7), 3), -1)
    best = min(cost(points, cells[list(order)], 3, 3) for order in itertools.permutations(range(7)))
    np.testing.assert_allclose(cost(points, found, 3, 3), best)


def test_points_on_a_grid_stay_there():
    cells = np.stack(np.divmod(np.arange(12), 4), -1)
    order = RANDOM.permutation(12)
    points = cells[order][:, ::-1] * [2.0, 30.0] - 5
    np.testing.assert_array_equal(jaxviz.grid_layout(points, columns=4), cells[order])


@pytest.mark.parametrize(
    ("number", "columns", "rows"), [(1, None, 1), (5, None, 2), (5, 1, 5), (5, 9, 1), (9, None, 3)]
)
def test_shapes_of_grids(number, columns, rows):
    found = jaxviz.grid_layout(RANDOM.normal(size=(number, 2)), columns=columns)
    assert found[:, 0].max() + 1 == rows
    assert len(set(map(tuple, found.tolist()))) == number


@pytest.mark.parametrize("columns", [None, 80])
def test_many_points_go_nearly_as_short_ways_as_they_can(columns, monkeypatch):
    points = 10 * RANDOM.normal(size=(20, 2))[RANDOM.integers(0, 20, 1300)] + RANDOM.normal(size=(1300, 2))
    found = jaxviz.grid_layout(points, columns=columns)
    width = columns or 37
    shape = (-(-1300 // width), width)
    assert sorted(map(tuple, found.tolist())) == [divmod(i, width) for i in range(1300)]
    monkeypatch.setattr(_grid_layout, "EXACT", 1300)
    best = jaxviz.grid_layout(points, columns=columns)
    assert cost(points, best, *shape) < cost(points, found, *shape) < 1.01 * cost(points, best, *shape)


def test_equal_points_have_cells_of_their_own():
    assert len(set(map(tuple, jaxviz.grid_layout(np.zeros((6, 2))).tolist()))) == 6


@pytest.mark.usefixtures("users_view")
@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: jaxviz.pca(np.zeros((1, 4))), r"expected \(n, ...\) with at least 2 rows, got shape \(1, 4\)"),
        (lambda: jaxviz.pca(np.zeros(4)), r"with at least 2 rows, got shape \(4,\)"),
        (lambda: jaxviz.pca(np.eye(3), components=4), r"components: expected 1 to 3 for data \(3, 3\), got 4"),
        (lambda: jaxviz.pca(np.full((3, 2), np.nan)), "data: expected finite numbers, got 6"),
        (lambda: jaxviz.pca(np.eye(3) * 1j), "data: expected real numbers, got complex128"),
        (lambda: jaxviz.tsne(np.full((9, 2), -np.inf), KEY, perplexity=2), "data: expected finite numbers, got 18"),
        (lambda: jaxviz.umap(np.full((9, 2), np.nan), KEY, neighbors=2), "data: expected finite numbers, got 18"),
        (lambda: jaxviz.grid_layout(np.full((4, 2), np.inf)), "data: expected finite numbers, got 8"),
        (lambda: jaxviz.tsne(np.eye(5), KEY), r"perplexity: expected above 0 and at most 1\.3, .* for 5 rows, got 30"),
        (lambda: jaxviz.tsne(np.eye(7), KEY, perplexity=2, steps=100), "steps: expected at least 250, .* got 100"),
        (lambda: jaxviz.umap(np.eye(5), KEY), "neighbors: expected 2 to 4, fewer than there are rows, got 15"),
        (lambda: jaxviz.grid_layout(np.zeros((4, 3))), r"points: expected \(n, 2\), .* got shape \(4, 3\)"),
        (lambda: jaxviz.grid_layout(np.zeros((4, 2)), columns=0), "columns: expected at least 1, got 0"),
        (lambda: jaxviz.grid_layout(np.zeros((0, 2))), "at least 1 rows, got shape"),
    ],
)
def test_errors(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_device_arrays_do():
    points = jnp.asarray(RANDOM.normal(size=(9, 2)))
    np.testing.assert_array_equal(jaxviz.grid_layout(points), jaxviz.grid_layout(np.asarray(points)))


# Features as colors


def test_colors_are_three_components_over_all_places():
    maps = np.random.default_rng(0).normal(size=(2, 4, 3, 6)) * np.array([6.0, 5, 4, 3, 2, 1])
    rows = maps.reshape(-1, 6)
    u, s, _ = np.linalg.svd(rows - rows.mean(0), full_matrices=False)
    points = (u * s)[:, :3]
    expected = ((points - points.min(0)) / (points.max(0) - points.min(0))).reshape(2, 4, 3, 3)
    found = jaxviz.pca_colors(maps)
    for color in range(3):  # a component has no sign
        same, turned = (np.abs(found[..., color] - x).max() for x in (expected[..., color], 1 - expected[..., color]))
        assert min(same, turned) < 1e-12


@pytest.mark.parametrize("sign", [1, -1])
def test_the_foreground_is_what_takes_less_of_the_border(sign):
    rng = np.random.default_rng(0)
    maps, inside = rng.normal(size=(2, 6, 6, 5)), np.zeros((2, 6, 6), bool)
    inside[0, 1:4, 2:5] = inside[1, 2:6, 3:5] = True  # one touches the border
    maps[inside] += sign * 20 * np.array([1.0, 0, 1, 0, 0])
    found = jaxviz.pca_colors(maps, foreground=True)
    np.testing.assert_array_equal(found[~inside], 0)
    own = jaxviz.pca_colors(maps[inside].reshape(1, 1, -1, 5))[0, 0]
    np.testing.assert_allclose(found[inside], own, atol=1e-12)


def test_colors_of_what_has_none():
    np.testing.assert_array_equal(jaxviz.pca_colors(np.ones((1, 2, 2, 4))), 0)
    with pytest.raises(ValueError, match=r"maps: expected features \(n, h, w, c\), got shape \(4, 3\)"):
        jaxviz.pca_colors(np.ones((4, 3)))
    with pytest.raises(ValueError, match="components: expected 1 to 2"):
        jaxviz.pca_colors(np.ones((1, 4, 4, 2)))
