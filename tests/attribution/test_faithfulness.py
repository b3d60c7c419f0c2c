"""Deletion and insertion against plain loops, and the pointing game by hand."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.ndimage
from nets import small_net

import jaxviz

METHODS = {"deletion": jaxviz.deletion, "insertion": jaxviz.insertion}
every_method = pytest.mark.parametrize("method", METHODS.values(), ids=METHODS)


@pytest.fixture(scope="module")
def images():
    return jax.random.uniform(jax.random.key(7), (2, 12, 10, 3))


@pytest.fixture(scope="module")
def maps():
    return jax.random.normal(jax.random.key(8), (2, 12, 10))


def curved(weights, images):
    return jnp.tanh(jnp.sum(weights * images, axis=(1, 2, 3)) / 10)


def score(target=1):
    return jaxviz.probability(small_net, target)


def threshold(params, images):
    """Class 0 if the first number of the image is above 0.2; else class 1."""
    first = images[:, 0, 0, 0]
    return jnp.stack([first, jnp.full_like(first, 0.2)], axis=-1)


def naive_curve(score, images, maps, step, fill, method):
    """Pixel by pixel, in the order of the map, of equal ones the upper left first."""
    start, end = (fill, images) if method is jaxviz.insertion else (images, fill)
    start, end = (np.array(np.broadcast_to(x, images.shape)) for x in (start, end))
    seen = lambda: np.asarray(score(start.copy()))  # a copy: jax may still read what is changed below
    values = [seen()]
    order = [sorted(np.ndindex(one.shape), key=lambda place, one=one: -one[place]) for one in np.asarray(maps)]
    for at in range(0, len(order[0]), step):
        for i, places in enumerate(order):
            for place in places[at : at + step]:
                start[i][place] = end[i][place]
        values.append(seen())
    return np.stack(values, axis=1)


@every_method
@pytest.mark.parametrize("step", [1, 24, 50, 224])  # 120 pixels: 120 steps, 5, 3 of which the last is short, 1
def test_curves_equal_a_plain_loop(method, step, images, maps):
    weights = jax.random.normal(jax.random.key(1), (1, *images.shape[1:]))
    expected = naive_curve(lambda x: curved(weights, x), images, maps, step, 0.25, method)
    values, areas = method(curved, weights, images, maps, step=step, fill=0.25)
    np.testing.assert_allclose(values, expected, atol=1e-5)
    # Points at equal distances, as in RISE's own code, also the last one of a step that is short.
    np.testing.assert_allclose(areas, np.trapezoid(expected, dx=1 / (expected.shape[1] - 1), axis=1), atol=1e-5)
    assert np.abs(expected[:, 0] - expected[:, -1]).min() > 1e-2


@every_method
def test_of_equal_pixels_the_upper_left_comes_first(method, images):
    weights = jax.random.normal(jax.random.key(1), (1, *images.shape[1:]))
    ties = jnp.round(2 * images[..., 0]).at[1].set(3.0)  # three values, and one
    expected = naive_curve(lambda x: curved(weights, x), images, ties, 7, 0.25, method)
    np.testing.assert_allclose(method(curved, weights, images, ties, step=7, fill=0.25).values, expected, atol=1e-5)


def test_fills(images, maps):
    mean = lambda params, x: x.mean((1, 2, 3))
    for fill, there in (
        (0.25, 0.25),
        ((0.1, 0.5, 0.9), 0.5),
        (images[0], images[0].mean()),
        (1 - images, 1 - mean(None, images)),
        ("blur", mean(None, jaxviz.blur(images, 5.0, size=11))),
    ):
        deleted = jaxviz.deletion(mean, None, images, maps, step=50, fill=fill).values
        inserted = jaxviz.insertion(mean, None, images, maps, step=50, fill=fill).values
        for found in (deleted[:, -1], inserted[:, 0]):
            np.testing.assert_allclose(found, np.broadcast_to(there, 2), rtol=1e-5)
        for found in (deleted[:, 0], inserted[:, -1]):
            np.testing.assert_allclose(found, mean(None, images), rtol=1e-5)


def test_fills_unless_told(images, maps):
    mean = lambda params, x: x.mean((1, 2, 3))
    np.testing.assert_allclose(jaxviz.deletion(mean, None, images, maps).values[:, -1], 0.5, rtol=1e-5)
    blurred = mean(None, jaxviz.blur(images, 5.0, size=11))
    np.testing.assert_allclose(jaxviz.insertion(mean, None, images, maps).values[:, 0], blurred, rtol=1e-5)


def test_insertion_may_begin_with_the_blur_of_the_authors_code(images, maps):
    """From RISE's evaluation.py and Evaluation.ipynb: a kernel of SciPy's, borders of zeros, on normalized images."""
    spike = np.zeros((11, 11))
    spike[5, 5] = 1
    kernel = scipy.ndimage.gaussian_filter(spike, 5)
    mean, deviation = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
    blurred = [
        scipy.ndimage.convolve(channel, kernel, mode="constant")
        for image in (np.asarray(images, float) - mean) / deviation
        for channel in image.transpose(2, 0, 1)
    ]
    expected = np.reshape(blurred, (2, 3, *images.shape[1:3])).transpose(0, 2, 3, 1) * deviation + mean
    pixel = lambda params, x: x[jnp.arange(2), jnp.array([0, 6]), jnp.array([9, 4])].sum(-1)
    first = jaxviz.insertion(pixel, None, images, maps, step=50, fill="rise").values[:, 0]
    np.testing.assert_allclose(first, [expected[0, 0, 9].sum(), expected[1, 6, 4].sum()], rtol=1e-5)
    ours = pixel(None, jaxviz.blur(images, 5.0, size=11))
    assert np.abs(first - ours).min() > 1e-2


def test_a_right_map_has_a_small_area_under_deletion_and_a_large_one_under_insertion(images):
    weights = jax.random.normal(jax.random.key(2), (1, 12, 10))
    linear = lambda weights, x: (weights * x.mean(-1)).sum((1, 2))
    right = weights * images.mean(-1)
    for method, sign in ((jaxviz.deletion, 1), (jaxviz.insertion, -1)):
        area = lambda maps: method(linear, weights, images, maps, step=10, fill=0.0).areas  # noqa: B023
        assert jnp.all(sign * area(right) < sign * area(jnp.zeros_like(right)) - 0.1)
        assert jnp.all(sign * area(jnp.zeros_like(right)) < sign * area(-right) - 0.1)


@every_method
def test_raw_jit_and_a_plain_function_agree(method, small_params, images, maps):
    fn = functools.partial(method, step=50, fill=0.25)
    raw = fn(score(), small_params, images, maps)
    assert raw.values.shape == (2, 4)
    assert raw.values.std() > 1e-3
    plain = lambda params, x: jax.nn.softmax(small_net(params, x))[:, 1]
    for other in (
        jax.jit(fn)(score(), small_params, images, maps),
        fn(plain, small_params, images, maps, batch_size=4),  # two points of both images at once, of four
        fn(score(), small_params, images, maps, batch_size=3),
    ):
        np.testing.assert_allclose(other.values, raw.values, atol=1e-5)
        np.testing.assert_allclose(other.areas, raw.areas, atol=1e-5)


@every_method
def test_an_image_does_not_see_its_neighbors(method, small_params, images, maps):
    fn = functools.partial(method, score(), small_params, step=50, fill=0.25)
    first = fn(images, maps).values
    others = fn(images.at[1].set(1 - images[1]), maps.at[1].set(-maps[1])).values
    np.testing.assert_array_equal(others[0], first[0])
    assert jnp.any(others[1] != first[1])
    np.testing.assert_allclose(fn(images[:1], maps[:1]).values[0], first[0], atol=1e-5)


@every_method
def test_a_target_for_each_image(method, small_params, images, maps):
    fn = lambda target: method(score(target), small_params, images, maps, step=50, fill=0.25).values
    first, second = fn(1), fn(2)
    np.testing.assert_allclose(fn(jnp.array([2, 1])), jnp.stack([second[0], first[1]]), atol=1e-5)
    assert jnp.abs(first - second).max() > 1e-3


@every_method
def test_the_best_class_is_that_of_the_image_and_stays(method, images, maps):
    images = images.at[:, 0, 0, 0].set(0.3)  # class 0, but class 1 where this pixel is hidden
    curve = lambda target: method(jaxviz.logit(threshold, target), None, images, maps, step=50, fill=0.0)
    np.testing.assert_allclose(curve(None).values, curve(0).values, atol=1e-6)
    assert set(np.unique(curve(0).values)) == {0, images.dtype.type(0.3)}  # and never 0.2, the logit of class 1


@every_method
def test_dtype_follows_the_images(method, x64, small_params, images, maps):
    fn = functools.partial(method, score(), step=50, fill=0.25)
    narrow = jax.tree.map(lambda x: x.astype(jnp.float32), (small_params, images, maps))
    assert jax.eval_shape(fn, *narrow).values.dtype == jnp.float32
    params, wide = jax.tree.map(lambda x: x.astype(jnp.float64), (small_params, images))
    curve = fn(params, wide, maps.astype(jnp.float64))
    assert curve.values.dtype == curve.areas.dtype == jnp.float64
    assert jnp.any(curve.values.astype(jnp.float32).astype(jnp.float64) != curve.values)


@every_method
def test_another_class_compiles_nothing(method, small_params, images, maps, caplog):
    fn = functools.partial(method, step=50, fill=0.25)
    first = fn(score(1), small_params, images, maps)
    with jax.log_compiles():
        second = fn(score(2), small_params, images, maps)
        assert [message for message in caplog.messages if "XLA compilation" in message] == []
        fn(score(2), small_params, images[:, :-1], maps[:, :-1])
    assert any("XLA compilation" in message for message in caplog.messages)  # another shape would have been seen
    assert jnp.abs(first.values - second.values).max() > 1e-3


@pytest.mark.usefixtures("users_view")
@every_method
def test_errors(method, small_params, images, maps):
    fn = functools.partial(method, score(), small_params)
    with pytest.raises(ValueError, match=r"maps: expected one for each image, \(2, 12, 10\), got shape \(1, 12, 10\)$"):
        fn(images, maps[:1])
    hint = r"got shape \(2, 12, 10, 3\); reduce colors first, as in abs\(maps\).max\(-1\)"
    with pytest.raises(ValueError, match=rf"maps: expected one for each image, \(2, 12, 10\), {hint}"):
        fn(images, images)
    with pytest.raises(ValueError, match="maps: expected finite numbers, got 2 that are NaN or infinite"):
        fn(images, maps.at[1, 3, :2].set(jnp.array([jnp.nan, jnp.inf])))
    with pytest.raises(ValueError, match="images: expected finite numbers, got 1 that"):
        fn(images.at[0, 0, 0, 0].set(jnp.nan), maps)
    with pytest.raises(ValueError, match=r"got shape \(12, 10, 3\); one image is image\[None\]"):
        fn(images[0], maps[0])
    for option in ("step", "batch_size"):
        with pytest.raises(ValueError, match=f"{option}: expected a whole number of at least 1, got 0"):
            fn(images, maps, **{option: 0})
    with pytest.raises(ValueError, match="fill: expected 'blur', a number, a color or an image, got 'nonsense'"):
        fn(images, maps, fill="nonsense")
    with pytest.raises(ValueError, match=r"fill: expected .* got shape \(5,\)"):
        fn(images, maps, fill=jnp.ones(5))
    with pytest.raises(ValueError, match=r"class: expected 0 to 4, .* got 5"):
        method(score(5), small_params, images, maps)
    with pytest.raises(ValueError, match=r"one number per image, here \(2,\); this one gave \(2, 5\)"):
        method(small_net, small_params, images, maps)


# The pointing game


def peak(row, column, shape=(20, 30)):
    return jnp.zeros((1, *shape)).at[0, row, column].set(1.0)


def hits(maps, *boxes, **options):
    return bool(jaxviz.pointing_game(maps, jnp.array([boxes]), **options)[0])


def test_a_box_ends_before_its_last_two_numbers():
    box = (4, 6, 8, 16)  # rows 4 to 7, columns 6 to 15
    for place in ((4, 6), (7, 15), (4, 15), (7, 6), (5, 10)):
        assert hits(peak(*place), box, tolerance=0)
    for place in ((3, 6), (4, 5), (8, 15), (7, 16)):
        assert not hits(peak(*place), box, tolerance=0)


def test_the_tolerance_is_a_distance():
    box = (4, 6, 8, 16)
    for row, column, distance in ((2, 10, 2), (9, 10, 2), (5, 3, 3), (5, 19, 4), (10, 19, 5), (0, 3, 5)):
        assert hits(peak(row, column), box, tolerance=distance)  # the last two by Pythagoras
        assert not hits(peak(row, column), box, tolerance=distance - 0.01)
    assert hits(peak(0, 15), (15, 0, 20, 30))  # 15 unless told
    assert not hits(peak(0, 15), (16, 0, 20, 30))


def test_one_box_of_several_is_enough_and_empty_ones_never_are():
    boxes = ((0, 0, 2, 2), (10, 20, 12, 22), (0, 0, 0, 0))
    assert hits(peak(1, 1), *boxes, tolerance=0)
    assert hits(peak(10, 21), *boxes, tolerance=0)
    assert not hits(peak(1, 21), *boxes, tolerance=0)
    for empty in ((0, 0, 0, 0), (0, 0, 5, 0), (0, 0, 0, 5), (5, 5, 5, 5)):
        assert not hits(peak(0, 0), empty, tolerance=15)


def test_each_image_has_its_own_boxes():
    maps = jnp.concatenate([peak(1, 1), peak(10, 21), peak(1, 1)])
    boxes = jnp.array([[[0, 0, 2, 2]], [[0, 0, 2, 2]], [[10, 20, 12, 22]]])
    np.testing.assert_array_equal(jaxviz.pointing_game(maps, boxes, tolerance=0), [True, False, False])
    jitted = jax.jit(functools.partial(jaxviz.pointing_game, tolerance=14))
    np.testing.assert_array_equal(jitted(maps, boxes), [True, False, False])
    np.testing.assert_array_equal(jaxviz.pointing_game(maps, boxes.astype(jnp.float32), tolerance=100), [True] * 3)


@pytest.mark.parametrize("dtype", [np.uint8, np.int8, np.uint16, np.int16])
def test_boxes_may_be_small_integers(dtype):
    """Differences of bytes, and their squares, do not fit into bytes."""
    maps, box = peak(40, 300, (50, 400)), jnp.array([[[10, 20, 45, 25]]], dtype)
    assert not jaxviz.pointing_game(maps, box, tolerance=275)[0]
    assert jaxviz.pointing_game(maps, box, tolerance=276)[0]  # from column 24, the last one inside


@pytest.mark.usefixtures("users_view")
def test_errors_of_the_pointing_game():
    with pytest.raises(ValueError, match="tolerance: expected a number of at least 0, got -15"):
        jaxviz.pointing_game(peak(0, 0), jnp.zeros((1, 1, 4)), tolerance=-15)
    for boxes in (jnp.zeros((1, 4)), jnp.zeros((2, 1, 4)), jnp.zeros((1, 1, 5))):
        with pytest.raises(ValueError, match=r"maps \(n, h, w\) and boxes \(n, m, 4\), got shapes \(1, 20, 30\) and"):
            jaxviz.pointing_game(peak(0, 0), boxes)
    with pytest.raises(ValueError, match=r"got shapes \(20, 30\) and \(1, 1, 4\)"):
        jaxviz.pointing_game(peak(0, 0)[0], jnp.zeros((1, 1, 4)))
    with pytest.raises(ValueError, match="maps: expected finite numbers, got 1 that"):
        jaxviz.pointing_game(peak(0, 0).at[0, 1, 1].set(jnp.nan), jnp.zeros((1, 1, 4)))
