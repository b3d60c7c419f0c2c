"""Parameters in the type of images that are read from files."""

import jax
import jax.numpy as jnp
import pytest


@pytest.fixture(scope="session")
def small_params(small_params):
    return jax.tree.map(lambda x: x.astype(jnp.float32), small_params)
