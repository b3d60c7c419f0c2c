"""Which results are JAX's and which are NumPy's: the rule that `help(jaxviz)` states."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxviz

KEY, EYE = jax.random.key(0), jnp.eye(3)
IMAGES = jax.random.uniform(KEY, (4, 8, 8, 3))
ROWS = IMAGES.reshape(4, -1)


def net(params, images):
    return jax.nn.relu(images @ params)


def classifier(params, images):
    return net(params, images).mean((1, 2))


LOGIT = jaxviz.logit(classifier, 0)
COMPUTED = {
    "saliency": lambda: jaxviz.saliency(LOGIT, EYE, IMAGES),
    "lrp": lambda: jaxviz.lrp(LOGIT, EYE, IMAGES),
    "occlusion": lambda: jaxviz.occlusion(LOGIT, EYE, IMAGES, window=2, stride=2),
    "deletion": lambda: jaxviz.deletion(LOGIT, EYE, IMAGES, IMAGES[..., 0], step=16),
    "rank_correlation": lambda: jaxviz.rank_correlation(IMAGES[..., 0], IMAGES[..., 1]),
    "normalize": lambda: jaxviz.normalize(IMAGES[..., 0]),
    "filters": lambda: jaxviz.filters(jnp.ones((3, 3, 3, 8))),
    "ascend": lambda: jaxviz.ascend(LOGIT, EYE, KEY, size=8, steps=2)[:2],
    "activation_grid": lambda: jaxviz.activation_grid(
        net, EYE, KEY, IMAGES[0, :1, :2], layer="relu_0", size=8, steps=1
    ),
    "fool": lambda: jaxviz.fool(classifier, EYE, IMAGES, target=1, steps=2).images,
    "efros_leung": lambda: jaxviz.efros_leung(KEY, IMAGES[0], size=(9, 9), window=3),
}
GATHERED = {
    "features": lambda: jaxviz.features(net, EYE, IMAGES, layer="relu_0").values,
    "top_patches": lambda: jaxviz.top_patches(net, EYE, IMAGES, layer="relu_0", k=1).layers["relu_0"].values,
    "facets": lambda: jaxviz.facets(net, EYE, IMAGES, layer="relu_0", count=2),
    "pca": lambda: jaxviz.pca(ROWS),
    "pca_colors": lambda: jaxviz.pca_colors(IMAGES),
    "neighbors": lambda: jaxviz.neighbors(ROWS, ROWS, k=2),
    "grid_layout": lambda: jaxviz.grid_layout(np.random.default_rng(0).random((4, 2))),
}


@pytest.mark.parametrize("name", COMPUTED)
def test_what_programs_compute_is_of_jax(name):
    assert {type(leaf) for leaf in jax.tree.leaves(COMPUTED[name]())} == {type(EYE)}


@pytest.mark.parametrize("name", GATHERED)
def test_what_is_gathered_is_of_numpy(name):
    assert {type(leaf) for leaf in jax.tree.leaves(GATHERED[name]())} == {np.ndarray}
