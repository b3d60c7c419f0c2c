"""Scores: values, pytrees that compile once, errors."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from nets import small_net

import jaxviz


def values_of(params, images, layer):
    return jaxviz.capture(small_net, layer)(params, images)[1][layer]


def test_logit(small_params, images):
    logits = small_net(small_params, images)
    np.testing.assert_array_equal(jaxviz.logit(small_net, 3)(small_params, images), logits[:, 3])
    np.testing.assert_array_equal(jaxviz.logit(small_net)(small_params, images), logits.max(-1))
    each = jaxviz.logit(small_net, jnp.array([4, 0]))(small_params, images)
    np.testing.assert_array_equal(each, [logits[0, 4], logits[1, 0]])


def test_channel_neuron_energy(small_params, images):
    value = values_of(small_params, images, "relu_1")
    close = lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5)  # noqa: E731
    close(jaxviz.channel(small_net, "relu_1", 2)(small_params, images), value[..., 2].mean((1, 2)))
    pair = jaxviz.channel(small_net, "relu_1", np.array([2, 5]))(small_params, images)
    close(pair, [value[0, ..., 2].mean(), value[1, ..., 5].mean()])
    close(jaxviz.neuron(small_net, "relu_1", 2)(small_params, images), value[:, 4, 4, 2])
    close(jaxviz.neuron(small_net, "relu_1", 2, (0, 7))(small_params, images), value[:, 0, 7, 2])
    where = (jnp.array([0, 1]), jnp.array([7, 6]))
    close(jaxviz.neuron(small_net, "relu_1", 2, where)(small_params, images), [value[0, 0, 7, 2], value[1, 1, 6, 2]])
    close(jaxviz.energy(small_net, "relu_1")(small_params, images), (value**2).mean((1, 2, 3)))
    dense = values_of(small_params, images, "dense_0")
    close(jaxviz.channel(small_net, "dense_0", 1)(small_params, images), dense[:, 1])
    close(jaxviz.neuron(small_net, "dense_0", 1)(small_params, images), dense[:, 1])


def test_other_numbers_compile_nothing(small_params, images):
    compiled = []

    def count(net):
        def counted(params, images):
            compiled.append(1)
            return net(params, images)

        return counted

    net = count(small_net)
    run = jax.jit(jaxviz.saliency)
    for make in (
        lambda i: jaxviz.logit(net, i),
        lambda i: jaxviz.channel(net, "relu_1", i),
        lambda i: jaxviz.neuron(net, "relu_1", i, (i, 2)),
    ):
        maps = [run(make(0), small_params, images)]
        traces = len(compiled)
        maps += [run(make(i), small_params, images) for i in range(1, 4)]
        assert len(compiled) == traces
        assert any(jnp.any(maps[0] != other) for other in maps[1:])  # and they are really others
    assert len(compiled) > 0


@pytest.mark.usefixtures("users_view")
def test_out_of_range(small_params, images):
    with pytest.raises(ValueError, match="no class 5: expected 0 to 4"):
        jaxviz.logit(small_net, 5)(small_params, images)
    with pytest.raises(ValueError, match="no channel of 'relu_1' 6: expected 0 to 5"):
        jaxviz.channel(small_net, "relu_1", 6)(small_params, images)
    with pytest.raises(ValueError, match="no row of 'relu_1' 8"):
        jaxviz.neuron(small_net, "relu_1", 0, (8, 0))(small_params, images)
    with pytest.raises(ValueError, match="no position"):
        jaxviz.neuron(small_net, "dense_0", 0, (0, 0))(small_params, images)
    with pytest.raises(ValueError, match="one for each of 2 images"):
        jaxviz.logit(small_net, jnp.arange(3))(small_params, images)
    with pytest.raises(ValueError, match=r"network that returns \(n, classes\)"):
        jaxviz.logit(lambda p, x: x)(small_params, images)
    with pytest.raises(ValueError, match="expected the number of a class"):
        jaxviz.logit(small_net, 1.5)(small_params, images)


def test_a_traced_index_out_of_range_is_nan(small_params, images):
    values = jax.jit(lambda i: jaxviz.logit(small_net, i)(small_params, images))(9)
    assert jnp.all(jnp.isnan(values))
