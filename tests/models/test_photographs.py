"""The check on photographs: it lets right weights in, and tells the mistakes that shapes do not."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxviz.models import _load, _photographs
from jaxviz.models._fetch import read_manifest
from jaxviz.models._networks import NETWORKS

pytestmark = pytest.mark.weights
FIRST = {"vgg16_features": "conv1_1", "efficientnet_lite0": "stem"}


def weights(name):
    from flax.traverse_util import unflatten_dict

    return unflatten_dict(_load.cached_or_fetched(name), sep="/")


def turned(name, params):
    return jax.tree.map(lambda leaf: leaf[::-1, ::-1] if leaf.ndim == 4 else leaf, params)


def with_first(name, params, change):
    return params | {FIRST[name]: change(params[FIRST[name]])}


def reversed_channels(name, params):
    return with_first(name, params, lambda layer: layer | {"kernel": layer["kernel"][:, :, ::-1]})


def of_range(scale, mean):
    """What a file holds whose network takes images by another mean and deviation."""

    def change(name, params):
        network = NETWORKS[name]
        factor, offset = scale / np.array(network.std), (np.array(mean) - network.mean) / network.std

        def layer(first):
            kernel = np.asarray(first["kernel"])
            shift = np.einsum("hwio,i->o", kernel, np.broadcast_to(offset, 3))
            return {"kernel": kernel * factor[:, None], "bias": first["bias"] + shift}

        return with_first(name, params, layer)

    return change


def rounded(dtype):
    return lambda name, params: jax.tree.map(lambda leaf: np.asarray(leaf.astype(dtype), np.float32), params)


WRONG = {
    "turned": (turned, "rotated by 180 degrees, as Theano's"),
    "BGR": (reversed_channels, "reverse order, BGR"),
    "0 to 255": (of_range(1 / 255, 0), "its inputs ranged from 0 to 255"),
    "0 to 1": (of_range(1, 0), "its inputs ranged from 0 to 1 without further normalization"),
}


def check(name, change):
    params = jax.tree.map(lambda leaf: np.asarray(leaf, np.float32), change(name, weights(name)))
    _photographs.check(NETWORKS[name], params, read_manifest()[name].expected)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [np.float16, jnp.bfloat16])
@pytest.mark.parametrize("name", list(FIRST))
def test_right_weights_pass(name, dtype):
    check(name, rounded(dtype))


@pytest.mark.slow
@pytest.mark.parametrize("case", WRONG)
@pytest.mark.parametrize("name", list(FIRST))
def test_wrong_ones_are_told_and_said_how(name, case):
    change, text = WRONG[case]
    with pytest.raises(ValueError, match=f"as if .*{text}"):
        check(name, change)


@pytest.mark.slow
def test_one_wrong_network_of_each_kind():
    for name in FIRST:
        with pytest.raises(ValueError, match="as if its input channels were in reverse order, BGR"):
            check(name, reversed_channels)


@pytest.mark.slow
@pytest.mark.parametrize("name", list(FIRST))
def test_weights_of_nothing_are_refused(name):
    with pytest.raises(ValueError, match=r"got one that is right on 0 of 4|within 3% of"):
        check(name, lambda name, params: jax.tree.map(np.zeros_like, params))


def test_published_weights_have_the_manifests_digest():
    for name in FIRST:
        assert read_manifest()[name].digest == _load._digest(_load.cached_or_fetched(name))
