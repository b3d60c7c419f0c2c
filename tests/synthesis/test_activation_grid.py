"""Activation grids: each position by itself, laid out where it is, as large as it is strong."""

import jax
import jax.numpy as jnp
import numpy as np

import jaxviz

KEY = jax.random.key(0)
IMAGE = jnp.zeros((4, 6, 3)).at[:2, :3, 0].set(0.9).at[:2, 3:, 1].set(0.9).at[2:, :3, 2].set(0.2)


def net(params, images):
    """Means of 2 x 3 pixels, so that the picture above has 2 x 2 positions."""
    n, h, w, c = images.shape
    return jax.nn.relu(images.reshape(n, h // 2, 2, w // 3, 3, c).mean((2, 4)) @ params)


def make(**options):
    options = {"layer": "relu_0", "size": (8, 12), "steps": 48} | options
    return jaxviz.activation_grid(net, jnp.eye(3), KEY, IMAGE, **options)


def test_each_position_by_its_own_direction():
    grid = make()
    assert grid.images.shape == (2, 2, 8, 12, 3)
    np.testing.assert_allclose(grid.magnitudes, [[0.9, 0.9], [0.2, 0]], atol=1e-6)
    colors = grid.images.mean((2, 3))
    assert colors[0, 0].argmax() == 0
    assert colors[0, 1].argmax() == 1
    assert colors[1, 0].argmax() == 2  # however weak
    score = jaxviz.direction(net, "relu_0", np.eye(3), power=2.0)
    same = jaxviz.ascend(
        jaxviz.direction(net, "relu_0", 0.9 * np.eye(3)[[0, 1, 2, 2]] * [[1], [1], [2 / 9], [0]], power=2.0),
        jnp.eye(3), KEY, size=(8, 12), steps=48,
    )  # fmt: skip
    np.testing.assert_allclose(grid.images.reshape(4, 8, 12, 3), same.images, atol=1e-4)
    assert np.all(score(jnp.eye(3), same.images[:3]) > 0.2)


def test_the_picture_is_laid_out_by_place_and_strength():
    images = jnp.broadcast_to(jnp.array([[0.1, 0.2], [0.3, 0.4]])[..., None, None, None], (2, 2, 8, 8, 3))
    grid = jaxviz.ActivationGrid(images, jnp.array([[4.0, 1.0], [0.0, 4.0]]))
    whole = grid.picture(sized=False)
    np.testing.assert_allclose(whole[::8, ::8, 0], [[0.1, 0.2], [0.3, 0.4]])
    sized = np.asarray(grid.picture())[..., 0]
    assert sized.shape == (16, 16)
    areas = [int(np.isclose(sized, value).sum()) for value in (0.1, 0.2, 0.3, 0.4)]
    assert areas == [64, 16, 1, 64]  # a quarter of the area for a quarter of the strength
    np.testing.assert_allclose(sized[2:6, 10:14], 0.2)
    assert grid.picture(gap=3).shape == (19, 19, 3)
    nothing = jaxviz.ActivationGrid(images, jnp.zeros((2, 2)))
    assert nothing.picture().shape == (2, 2, 3)
