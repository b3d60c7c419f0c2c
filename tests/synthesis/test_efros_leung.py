"""Texture by copying pixels: the paper's algorithm one pixel after the other, periodic samples, what may not change."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxviz.synthesis._efros_leung import _errors, _grown, _picked, _sample, efros_leung

KEY = jax.random.key(3)
SIZE = (22, 24)  # passes of more pixels than are looked at for ones to fill at the same time
grow = functools.partial(efros_leung, size=SIZE, window=5)
jitted = jax.jit(grow)


@pytest.fixture(scope="module")
def sample():
    """Blobs of three colors: few enough for good matches, no two windows alike."""
    noise = jax.random.uniform(jax.random.key(1), (6, 6, 3))
    return jnp.clip(jax.image.resize(noise, (16, 16, 3), "cubic"), 0, 1)


@pytest.fixture(scope="module")
def half(sample):
    return sample[:3, :9].astype(jnp.float16)


def plain_errors(image, source, window):
    """Return the errors of all places of the sample, straight from the definition."""
    weights = np.exp(-0.5 * ((np.arange(window) - window // 2) / (window / 6.4)) ** 2)
    weights = weights[:, None] * weights * (source >= 0)
    values = image.reshape(-1, 3)[np.maximum(source, 0)]
    windows = np.lib.stride_tricks.sliding_window_view(image, (window, window), (0, 1))
    squares = (windows - np.moveaxis(values, -1, 0)) ** 2
    return np.sum(weights * squares.mean(2), (-2, -1)) / weights.sum()


chances_of = jax.jit(jax.vmap(lambda key, i: jax.random.uniform(jax.random.fold_in(key, i)), (None, 0)))


def plain_growth(key, image, size, window):
    """Return what the paper's pseudo-code grows, with our random numbers, and how often it had to raise its limit."""
    reach, (height, width), across = window // 2, size, image.shape[1]
    seed_key, key = jax.random.split(key)
    keys = jax.random.split(seed_key)
    y, x = (int(jax.random.randint(k, (), 0, side - 2)) for k, side in zip(keys, image.shape[:2], strict=True))
    source = np.full((height + 2 * reach, width + 2 * reach), -1)
    inside = source[reach : reach + height, reach : reach + width]
    top, left = (height - 3) // 2, (width - 3) // 2
    inside[top : top + 3, left : left + 3] = np.arange(image.size // 3).reshape(-1, across)[y : y + 3, x : x + 3]
    limit, raised = 0.3, 0
    while (inside < 0).any():
        key, order_key, pick_key = jax.random.split(key, 3)
        ties = np.asarray(jax.random.uniform(order_key, size))
        chances = np.asarray(chances_of(pick_key, jnp.arange(height * width))).reshape(size)
        unknown = [place for place in np.ndindex(*size) if inside[place] < 0]
        known = {(r, c): (source[r : r + window, c : c + window] >= 0) for r, c in unknown}
        middle = slice(reach - 1, reach + 2)
        edge = [place for place in unknown if known[place][middle, middle].any()]
        progress = False
        for r, c in sorted(edge, key=lambda place: (-known[place].sum(), ties[place])):
            errors = plain_errors(image, source[r : r + window, c : c + window], window)
            best = np.argwhere(errors <= 1.1 * errors.min() + 1e-14)
            y, x = best[int(chances[r, c] * len(best))]
            if errors[y, x] < limit:
                inside[r, c] = (y + reach) * across + x + reach
                progress = True
        if not progress:
            limit *= 1.1
            raised += 1
    return inside, raised


@pytest.mark.slow
@pytest.mark.parametrize(("contrast", "raises"), [(1, False), (20, True)])
def test_equals_the_papers_order_one_pixel_after_the_other(x64, sample, contrast, raises):
    """Filling pixels at the same time changes nothing; with more contrast, errors exceed the limit and pixels wait."""
    image = contrast * sample.astype(jnp.float64)
    expected, raised = plain_growth(KEY, np.asarray(image), SIZE, 5)
    assert (raised > 0) == raises
    np.testing.assert_array_equal(_grown(KEY, image, size=SIZE, window=5), expected)
    if contrast == 1:  # more of it is no image in [0, 1], which is refused
        grown = grow(KEY, image)
        assert grown.dtype == jnp.float64
        np.testing.assert_array_equal(grown, image.reshape(-1, 3)[expected])


def test_errors_are_the_definitions(sample):
    rng = np.random.default_rng(0)
    around = rng.integers(0, 256, (4, 7, 7))
    around[rng.random(around.shape) < 0.4] = -1
    found = jax.jit(lambda image: _errors(_sample(image, 7), jnp.asarray(around)))(sample)
    expected = [plain_errors(np.asarray(sample, np.float64), source, 7) for source in around]
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


def test_picks_evenly_among_places_within_ten_percent():
    errors = jnp.full((4, 5), 0.2).at[0, 4].set(0.1).at[2, 1].set(0.1099).at[2, 3].set(0.105).at[3, 0].set(0.1101)
    rows, columns = jax.jit(jax.vmap(lambda key: _picked(key, errors)))(jax.random.split(KEY, 3000))
    counts = np.zeros((4, 5), int)
    np.add.at(counts, (np.asarray(rows), np.asarray(columns)), 1)
    assert counts[0, 4] + counts[2, 1] + counts[2, 3] == 3000
    assert np.abs(counts[[0, 2, 2], [4, 1, 3]] - 1000).max() < 4 * np.sqrt(3000 * 2 / 9)


def test_picks_among_what_only_rounding_tells_apart():
    errors = jnp.array([[0.0, 3e-7, 1e-4]], jnp.float32)
    _, columns = jax.jit(jax.vmap(lambda key: _picked(key, errors)))(jax.random.split(KEY, 100))
    assert set(np.unique(columns)) == {0, 1}


@pytest.mark.slow
def test_a_periodic_sample_goes_on_without_a_fault():
    """A window that spans the tile, colors all different: the seed fixes the phase, and with it every pixel."""
    tile = np.asarray(jax.random.uniform(jax.random.key(2), (4, 4, 3)))
    image = jnp.asarray(np.tile(tile, (4, 4, 1)))
    rows, columns = np.indices(SIZE)
    phases = [np.roll(tile, shift, (0, 1))[rows % 4, columns % 4] for shift in np.ndindex(4, 4)]
    for seed in range(3):
        grown = np.asarray(grow(jax.random.key(seed), image))
        assert sum(np.array_equal(grown, phase) for phase in phases) == 1


def test_all_equal_windows_are_picked_from():
    """All nine copies of each pixel with a whole window are used, 33 times in all: missing one is rare."""
    tile = jax.random.uniform(jax.random.key(2), (4, 4, 3))
    source = _grown(KEY, jnp.tile(tile, (4, 4, 1)), size=SIZE, window=5)
    assert len(np.unique(source)) > 9 * 16 * 0.9


def test_a_checkerboard_goes_on_and_a_constant_stays(sample):
    board = jnp.broadcast_to(jnp.indices((16, 16)).sum(0)[..., None] % 2, (16, 16, 3)).astype(float)
    grown = np.asarray(grow(KEY, board))
    assert set(np.unique(grown[:-1] + grown[1:])) == {1}
    assert set(np.unique(grown[:, :-1] + grown[:, 1:])) == {1}
    constant = jnp.broadcast_to(jnp.array([0.1, 0.7, 0.3]), sample.shape)
    np.testing.assert_array_equal(grow(KEY, constant), jnp.tile(constant[:1, :1], (*SIZE, 1)))


def test_every_pixel_is_the_samples_and_keys_matter(sample):
    grown = np.asarray(grow(KEY, sample))
    colors = {color.tobytes() for color in np.asarray(sample).reshape(-1, 3)}
    assert {color.tobytes() for color in grown.reshape(-1, 3)} <= colors
    assert grown.tobytes() == np.asarray(grow(KEY, sample)).tobytes()
    others = [np.asarray(grow(jax.random.key(seed), sample)) for seed in (4, 5)]
    assert min(np.mean(grown != others[0]), np.mean(grown != others[1]), np.mean(others[0] != others[1])) > 0.5


def test_what_is_grown_looks_like_the_sample(sample):
    """Neighbors in the result differ as neighbors in the sample do; in shuffled pixels they differ far more."""
    grown = grow(KEY, sample)
    roughness = lambda image: np.abs(np.diff(image, axis=0)).mean()
    shuffled = jax.random.permutation(KEY, sample.reshape(-1, 3)).reshape(sample.shape)
    assert roughness(grown) < 1.3 * roughness(sample) < 0.6 * roughness(shuffled)


@pytest.mark.slow
def test_jit_changes_nothing(sample):
    np.testing.assert_array_equal(jitted(KEY, sample), grow(KEY, sample))


@pytest.mark.slow
def test_vmap_changes_nothing(half):
    keys = jax.random.split(KEY, 2)
    several = jax.vmap(lambda key: efros_leung(key, half, size=(11, 4), window=3))(keys)
    for key, one in zip(keys, several, strict=True):
        np.testing.assert_array_equal(one, efros_leung(key, half, size=(11, 4), window=3))


def test_numbers_that_match_nothing_do_not_go_on_for_ever(sample):
    """Under jit, nothing can be raised."""
    for value in (np.nan, np.inf, 1e30):
        assert jitted(KEY, sample.at[3, 4].set(value)).shape == (*SIZE, 3)


def test_the_slope_counts_the_copies(sample):
    slope = jax.grad(lambda image: grow(KEY, image).sum())(sample)
    copies = np.bincount(_grown(KEY, sample, size=SIZE, window=5).ravel(), minlength=256).reshape(16, 16)
    np.testing.assert_array_equal(slope, np.repeat(copies[..., None], 3, -1))


@pytest.mark.slow
@pytest.mark.parametrize("size", [2, (11, 4)])
def test_sizes(half, size):
    """Smaller than the seed, and longer than the sample, of which one window is as high."""
    grown = efros_leung(KEY, half, size=size, window=3)
    assert grown.shape == ((2, 2, 3) if size == 2 else (11, 4, 3))
    assert grown.dtype == jnp.float16
    assert np.isin(grown, half).all()


@pytest.mark.parametrize(
    ("image", "options", "match"),
    [
        (
            jnp.ones((1, 16, 16, 3)),
            {},
            r"expected one image \(h, w, c\), got shape \(1, 16, 16, 3\); from a batch take",
        ),
        (jnp.ones((16, 16)), {}, r"expected one image \(h, w, c\), got shape \(16, 16\)"),
        (jnp.ones((16, 16, 3), jnp.uint8), {}, "floats in .0, 1., got uint8; divide bytes by 255"),
        (jnp.full((16, 16, 3), jnp.nan), {}, "image: expected finite numbers, got 768 that are NaN"),
        (jnp.ones((16, 16, 3)), {"window": 8}, "window: expected an odd number of pixels, at least 3, got 8"),
        (jnp.ones((16, 16, 3)), {"window": 1}, "window: expected an odd number of pixels, at least 3, got 1"),
        (jnp.ones((16, 16, 3)), {"window": 4.5}, "window: expected an odd number of pixels, at least 3, got 4.5"),
        (jnp.ones((16, 10, 3)), {}, "at least 11x11 pixels, the window's, got 16x10; use a smaller window"),
        (jnp.ones((16, 16, 3)), {"size": 0}, r"size: expected an int or \(height, width\).* got 0"),
        (jnp.ones((16, 16, 3)), {"size": (4, -1)}, r"size: expected .* of at least 1 pixel, got \(4, -1\)"),
        (jnp.ones((16, 16, 3)), {"size": (4, 4, 3)}, r"size: expected .* got \(4, 4, 3\)"),
        (jnp.ones((16, 16, 3)), {"size": 4.5}, r"size: expected .* got 4.5"),
    ],
)
def test_errors(users_view, image, options, match):
    with pytest.raises(ValueError, match=match):
        efros_leung(KEY, image, **{"size": 8, **options})
