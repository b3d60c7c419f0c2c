"""L-BFGS without a line search: what it remembers of a step along which a loss has hardly any curvature."""

import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxviz

# Called without `minimize`, which lets optax promote.
pytestmark = pytest.mark.usefixtures("users_promotions")


def second_step(optimizer, cosine):
    """Return the second step, and its gradient, where the first changed that at an angle of this cosine to the step."""
    params, first = jnp.zeros((1, 2)), jnp.array([[1.0, 0.0]])
    step, state = optimizer.update(first, optimizer.init(params), params)
    along = step / jnp.linalg.norm(step)
    change = cosine * along + jnp.sqrt(1 - cosine**2) * along[:, ::-1]
    second = first + change
    return optimizer.update(second, state, params + step)[0], second


def length_per_gradient(optimizer, cosine):
    step, gradient = second_step(optimizer, cosine)
    return float(jnp.linalg.norm(step) / jnp.linalg.norm(gradient))


PLAIN = optax.chain(optax.scale_by_lbfgs(memory_size=20), optax.scale(-1.0))


@pytest.mark.parametrize("cosine", [0.06, 0.3, 1.0])
def test_curvature_is_remembered_as_it_is(cosine):
    (step, _), (expected, _) = (second_step(optimizer, cosine) for optimizer in (jaxviz.lbfgs(), PLAIN))
    np.testing.assert_allclose(step, expected, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("cosine", [0.04, 1e-3, 1e-6, 0.0, -1e-3, -0.3])
def test_where_there_is_hardly_any_the_next_step_is_not_longer_for_it(cosine):
    """The inverse Hessian of a step s and a change y of as much along s as across is at most (1 + √2)² / 2 + 1 < 4."""
    assert length_per_gradient(jaxviz.lbfgs(), cosine) < 4
    if 0 < cosine < 1e-2:
        assert length_per_gradient(PLAIN, cosine) > 100
