"""Occlusion and RISE: closed forms, plain loops over windows and masks, batches, errors."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import skimage.transform
from nets import small_net

import jaxviz
from jaxviz.attribution._rise import _mask

KEY = jax.random.key(11)


def occluded(score, params, images, **options):
    return jaxviz.occlusion(score, params, images, **{"window": (5, 4), "stride": (4, 3)} | options)  # 3 x 3 windows


def risen(score, params, images, **options):
    return jaxviz.rise(score, params, KEY, images, **{"masks": 9, "cells": 3} | options)


METHODS = {"occlusion": occluded, "rise": risen}
every_method = pytest.mark.parametrize("fn", METHODS.values(), ids=METHODS)


@pytest.fixture(scope="module")
def images():
    return jax.random.uniform(jax.random.key(7), (2, 12, 10, 3))


@pytest.fixture(scope="module")
def weights():
    return jax.random.normal(jax.random.key(1), (1, 12, 10, 3))


def linear(weights, images):
    return jnp.sum(weights * images, axis=(1, 2, 3))


def curved(weights, images):
    return jnp.tanh(linear(weights, images) / 10)


def score(target=1):
    return jaxviz.logit(small_net, target)


def threshold(params, images):
    """Class 0 if the first number of the image is above 0.2; else class 1, whose logit has no gradient."""
    first = images[:, 0, 0, 0]
    return jnp.stack([first, jnp.full_like(first, 0.2)], axis=-1)


# Occlusion


@pytest.mark.parametrize("fill", ["gray", "color", "image", "image each", "blur"])
def test_windows_of_a_pixel_give_the_terms_of_a_linear_score(fill, weights, images):
    values = {
        "gray": 0.5,
        "color": (0.1, 0.5, 0.9),
        "image": jnp.flip(images[0], 0),
        "image each": jnp.flip(images, 0),
        "blur": "blur",
    }[fill]
    there = jaxviz.blur(images, 5.0, size=11) if fill == "blur" else np.asarray(values)
    maps = jaxviz.occlusion(linear, weights, images, window=1, stride=1, fill=values)
    np.testing.assert_allclose(maps, (np.asarray(weights) * (np.asarray(images) - there)).sum(-1), atol=1e-5)


def naive_occlusion(score, images, window, stride, fill):
    """One window after another, as the paper says it; starts go on until the last row and column are covered."""
    n, *size, _ = images.shape
    starts = []
    for side, length, step in zip(size, window, stride, strict=True):
        starts.append([0])
        while starts[-1][-1] + length < side:
            starts[-1].append(starts[-1][-1] + step)
    total, times = np.zeros((n, *size)), np.zeros(size)
    for top in starts[0]:
        for left in starts[1]:
            copy = np.array(images)
            copy[:, top : top + window[0], left : left + window[1]] = fill
            drop = np.asarray(score(images) - score(copy))
            total[:, top : top + window[0], left : left + window[1]] += drop[:, None, None]
            times[top : top + window[0], left : left + window[1]] += 1
    return total / times


@pytest.mark.parametrize(
    ("window", "stride"),
    [
        pytest.param((4, 4), (2, 2), id="overlapping"),
        pytest.param((5, 4), (4, 3), id="cut at both edges"),
        pytest.param((7, 2), (7, 1), id="unequal"),
        pytest.param((12, 10), (12, 10), id="whole image"),
        pytest.param((11, 9), (3, 2), id="nearly the whole"),
    ],
)
def test_occlusion_equals_a_plain_loop(window, stride, weights, images):
    expected = naive_occlusion(lambda x: curved(weights, x), images, window, stride, 0.25)
    maps = jaxviz.occlusion(curved, weights, images, window=window, stride=stride, fill=0.25, batch_size=6)
    np.testing.assert_allclose(maps, expected, atol=1e-5)
    assert np.abs(expected).max() > 1e-2


@pytest.mark.usefixtures("users_view")  # a list is more than the annotation says
def test_one_number_is_a_square(weights, images):
    pairs = jaxviz.occlusion(curved, weights, images, window=(4, 4), stride=(3, 3))
    for window in (4, [4, 4]):
        np.testing.assert_array_equal(jaxviz.occlusion(curved, weights, images, window=window, stride=3), pairs)
    turned = jaxviz.occlusion(curved, weights, images, window=(4, 3), stride=(3, 3))
    assert jnp.abs(turned - pairs).max() > 1e-3


# RISE


def nine_masks(keep):
    """Return the masks that `risen` uses."""
    keys = [jax.random.fold_in(KEY, i) for i in range(9)]
    return np.asarray(jax.jit(jax.vmap(lambda key: _mask(key, 12, 10, 3, keep)))(jnp.stack(keys)))


@pytest.mark.slow
def test_rise_equals_a_plain_loop_over_the_same_masks(weights, images):
    total = np.zeros(images.shape[:3])
    for mask in nine_masks(0.3):
        seen = mask[..., None] * np.asarray(images) + (1 - mask[..., None]) * 0.75
        total += np.asarray(curved(weights, seen))[:, None, None] * mask
    maps = risen(curved, weights, images, keep=0.3, fill=0.75, batch_size=8)
    np.testing.assert_allclose(maps, total / (9 * 0.3), atol=1e-5)
    assert np.abs(total).max() > 1e-2


@pytest.mark.parametrize("keep", [0.5, 0.2])
def test_masks_are_smooth_and_keep_what_they_should(keep):
    masks = jax.jit(jax.vmap(lambda key: _mask(key, 13, 9, 4, keep)))(jax.random.split(KEY, 2000))
    assert masks.shape == (2000, 13, 9)
    assert masks.min() >= 0
    assert masks.max() <= 1 + 1e-6
    assert jnp.all(masks.std((1, 2)).mean() > 0.1)
    # A pixel is seen as often as any other: a mean of 2000 numbers, each of variance keep (1 - keep) at most.
    np.testing.assert_allclose(masks.mean(0), keep, atol=5 * np.sqrt(keep * (1 - keep) / 2000))
    # From one cell to the next takes 4 x 5 / 4 rows, 3 x 5 / 4 columns.
    assert jnp.abs(jnp.diff(masks, axis=1)).max() <= 4 / 20 + 1e-5
    assert jnp.abs(jnp.diff(masks, axis=2)).max() <= 4 / 15 + 1e-5


def test_a_mask_is_the_enlarged_grid_cut_somewhere():
    """As in the authors' code: cells + 1 cells of ceil(size / cells) pixels, from anywhere in the first cell."""
    places, make = set(), jax.jit(lambda key: _mask(key, 13, 9, 4, 0.5))
    for i in range(12):
        key = jax.random.fold_in(KEY, i)
        grid = np.asarray(jax.random.bernoulli(jax.random.split(key)[0], 0.5, (4, 4)), float)
        large = skimage.transform.resize(grid, (5 * 4, 5 * 3), order=1, mode="reflect", anti_aliasing=False)
        mask = make(key)
        found = [
            (row, column)
            for row in range(4)
            for column in range(3)
            if np.abs(large[row : row + 13, column : column + 9] - mask).max() < 1e-5
        ]
        assert len(found) == 1
        places.update(found)
    assert len({row for row, _ in places}) == 4  # every shift comes up
    assert len({column for _, column in places}) == 3


def test_if_all_is_kept_the_map_is_the_score(weights, images):
    maps = risen(curved, weights, images, keep=1)
    np.testing.assert_allclose(maps, np.broadcast_to(curved(weights, images)[:, None, None], maps.shape), rtol=1e-5)


def test_rise_finds_the_pixel_that_matters(images):
    spot = lambda params, x: x[:, 9, 2].mean(-1)
    maps = jaxviz.rise(spot, None, KEY, jnp.ones_like(images), masks=1000, cells=5, fill=0.0, batch_size=500)
    # As smooth as a mask, and cut to whole cells: the largest value is within half a cell of the pixel.
    row, column = divmod(int(jnp.argmax(maps[0])), 10)
    assert abs(row - 9) <= 2
    assert abs(column - 2) <= 2


def test_the_same_key_the_same_bits(small_params, images):
    maps = lambda key: jaxviz.rise(score(), small_params, key, images, masks=9, cells=3)
    first = maps(KEY)
    np.testing.assert_array_equal(maps(KEY), first)
    assert jnp.abs(maps(jax.random.key(12)) - first).max() > 1e-3


def test_every_image_meets_the_same_masks(small_params, images):
    maps = risen(score(), small_params, jnp.stack([images[0]] * 2))
    np.testing.assert_array_equal(maps[0], maps[1])


# Both


@pytest.mark.slow
def test_the_best_class_is_that_of_the_image_and_stays(images):
    """Where a copy hides the first pixel, class 1 comes first, and would keep the score at 0.2."""
    images = images.at[:, 0, 0, 0].set(0.3)
    maps = occluded(jaxviz.logit(threshold), None, images, fill=0.0)
    expected = np.zeros((12, 10))
    expected[:5, :4] = 0.3
    expected[4] /= 2  # which other windows cover too
    expected[:, 3] /= 2
    np.testing.assert_allclose(maps, np.stack([expected] * 2), atol=1e-6)
    masks = nine_masks(0.5)
    expected = np.einsum("b,bhw->hw", 0.3 * masks[:, 0, 0], masks) / (9 * 0.5)
    np.testing.assert_allclose(
        risen(jaxviz.logit(threshold), None, images, fill=0.0), np.stack([expected] * 2), atol=1e-6
    )
    assert masks[:, 0, 0].min() * 0.3 < 0.2


def test_a_score_that_sees_no_image_does_not_drop(images):
    maps = occluded(lambda params, x: jnp.full(len(x), 3.0), None, images)
    np.testing.assert_array_equal(maps, 0.0)


@pytest.mark.usefixtures("users_view")
@every_method
def test_errors(fn, small_params, images):
    with pytest.raises(ValueError, match=r"images \(n, h, w, c\), got shape \(12, 10, 3\); one image is image\[None\]"):
        fn(score(), small_params, images[0])
    with pytest.raises(ValueError, match="images: expected finite numbers, got 1 that are NaN or infinite"):
        fn(score(), small_params, images.at[0, 1, 2, 0].set(jnp.nan))
    with pytest.raises(ValueError, match="images: expected finite numbers, got 3 that are NaN or infinite"):
        fn(score(), small_params, images.at[1, 1, 2].set(jnp.inf))
    with pytest.raises(ValueError, match=r"class: expected 0 to 4, .* got 5"):
        fn(score(5), small_params, images)
    with pytest.raises(ValueError, match=r"one number per image, here \(2,\); this one gave \(\)"):
        fn(lambda p, x: small_net(p, x).sum(), small_params, images)
    with pytest.raises(ValueError, match="batch_size: expected a whole number of at least 1, got 0"):
        fn(score(), small_params, images, batch_size=0)
    with pytest.raises(ValueError, match="fill: expected 'blur', a number, a color or an image, got 'nonsense'"):
        fn(score(), small_params, images, fill="nonsense")
    with pytest.raises(ValueError, match=r"fill: expected .* \(3,\) or an image \(12, 10, 3\), got shape \(5,\)"):
        fn(score(), small_params, images, fill=jnp.ones(5))
    with pytest.raises(ValueError, match=r"fill: expected .* got shape \(1, 2, 12, 10, 3\)"):
        fn(score(), small_params, images, fill=images[None])
    with pytest.raises(ValueError, match="fill: expected finite numbers, got 1 that"):
        fn(score(), small_params, images, fill=jnp.nan)


@pytest.mark.usefixtures("users_view")
def test_errors_of_options(small_params, images):
    occlusion = functools.partial(jaxviz.occlusion, score(), small_params, images)
    with pytest.raises(ValueError, match="window: expected at most the images' size, 12x10, got 32x32"):
        occlusion()
    with pytest.raises(ValueError, match="window: expected at most the images' size, 12x10, got 12x11"):
        occlusion(window=(12, 11))
    with pytest.raises(ValueError, match="stride: expected at most the window's size, 4x3, got 2x4; no window would"):
        occlusion(window=(4, 3), stride=(2, 4))
    with pytest.raises(ValueError, match="stride: expected a whole number of at least 1, got 0"):
        occlusion(window=4, stride=0)
    with pytest.raises(ValueError, match="window: expected a whole number of at least 1, got -1"):
        occlusion(window=(4, -1), stride=1)
    with pytest.raises(ValueError, match=r"window: expected a number of pixels or \(height, width\), got \(4, 4, 4\)"):
        occlusion(window=(4, 4, 4), stride=1)
    rise = functools.partial(jaxviz.rise, score(), small_params, KEY, images)
    for option in ("masks", "cells"):
        with pytest.raises(ValueError, match=f"{option}: expected a whole number of at least 1, got 0"):
            rise(**{option: 0})
    for keep in (0, -0.5, 1.5, float("nan")):
        with pytest.raises(ValueError, match=rf"keep: expected a probability in \(0, 1\], got {keep}"):
            rise(keep=keep)


@pytest.mark.slow
def test_rise_of_many_masks_in_half_precision():
    """A sum of 4,000 in bfloat16 would stay where it is long before its end."""
    same = lambda params, images: images.mean((1, 2, 3))
    images = jnp.ones((1, 8, 8, 3), jnp.float32)
    low, high = (
        jaxviz.rise(same, None, KEY, images.astype(dtype), masks=4000, fill=1.0) for dtype in ("bfloat16", "float32")
    )
    assert low.dtype == jnp.bfloat16
    np.testing.assert_allclose(low.astype(float), high, rtol=2**-7)  # two units in bfloat16's last place
