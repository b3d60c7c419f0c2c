"""What results are tied to: a hash of what a network computes, whatever it is called and wherever it is traced."""

import os
import subprocess
import sys
import textwrap

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.ad_checkpoint import checkpoint_name
from nets import make_net, small_net
from processes import PATHS

from jaxviz.program._digest import digest_of, digest_of_program

ONE = jax.ShapeDtypeStruct((4,), jnp.float32)


def program(net, params):
    return digest_of_program(net, params, jax.ShapeDtypeStruct((1, 16, 16, 3), params["w1"].dtype))


def shifted(params, images):
    return small_net(params, images - 0.5)


def scaled_by_array(scale):
    table = np.array(scale, np.float32)
    return lambda params, images: small_net(params, images * table.reshape(1, 1, 1, 3).astype(images.dtype))


def looped(turn, times=3):
    return lambda x: jax.lax.fori_loop(0, times, lambda _, y: turn(y), x)


def branched(first, second):
    return lambda x: jax.lax.cond(x[0] > 0, first, second, x)


def on_host(function):
    return lambda x: jax.pure_callback(function, ONE, x)


def noise(seed):
    return jax.random.normal(jax.random.key(seed), 4, jnp.float32)


def test_the_same_computation_has_the_same_digest(small_params):
    expected = program(small_net, small_params)
    assert expected == program(make_net(), jax.eval_shape(lambda: small_params))

    def renamed(weights, batch):
        unused = jnp.exp(batch).sum()  # reaches no output
        jax.debug.print("{}", unused)
        return small_net(weights, checkpoint_name(batch, "images"))

    for same in (renamed, jax.jit(small_net), jax.checkpoint(small_net), make_net(wrap=jax.jit)):
        assert program(same, small_params) == expected


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (jnp.sin, jnp.cos),
        (lambda x: x - 1, lambda x: 1 - x),
        (lambda x: x * 2.0, lambda x: x * 2.5),
        (lambda x: (x, 2 * x), lambda x: (2 * x, x)),
        (lambda x: x.sum(), lambda x: x.sum(keepdims=True)),
        (lambda x: jnp.roll(x, 1), lambda x: jnp.roll(x, 2)),
        (looped(jnp.sin), looped(jnp.cos)),
        (looped(jnp.sin, 3), looped(jnp.sin, 4)),
        (branched(jnp.sin, jnp.cos), branched(jnp.cos, jnp.sin)),
        (lambda x: x + np.arange(4, dtype=np.float32), lambda x: x + np.arange(1, 5, dtype=np.float32)),
        (lambda x: x + noise(0), lambda x: x + noise(1)),
        (jax.jit(jnp.sin), jax.jit(jnp.cos)),
        (on_host(lambda x: x + 1), on_host(lambda x: x + 2)),
        (lambda x: x.astype("bfloat16"), lambda x: x.astype("float16")),
    ],
)
def test_another_computation_has_another_digest(one, other):
    assert digest_of_program(one, ONE) != digest_of_program(other, ONE)
    assert digest_of_program(one, ONE) == digest_of_program(one, ONE)


def test_what_a_network_closes_over_counts(small_params):
    """A normalization changes no parameter; nor do weights that a network holds itself."""
    digests = [
        program(net, small_params)
        for net in (small_net, shifted, scaled_by_array([1, 1, 1]), scaled_by_array([1, 1, 2]))
    ]
    assert len({*digests}) == 4
    assert program(scaled_by_array([1, 1, 2]), small_params) == digests[3]


def test_effects_in_loops_count():
    """What is written into a reference leaves the body by no output."""

    def kept(factor):
        def net(x):
            ref = jax.new_ref(jnp.zeros(4, jnp.float32))

            def turn(i, _):
                ref[...] = ref[...] * factor + x

            jax.lax.fori_loop(0, 3, turn, None)
            return ref[...]

        return net

    assert digest_of_program(kept(2.0), ONE) != digest_of_program(kept(3.0), ONE)


def test_a_derivative_written_by_hand_counts_where_the_derivative_is_what_is_computed():
    @jax.custom_jvp
    def f(x):
        return x * 2

    f.defjvp(lambda primals, tangents: (f(*primals), 3 * tangents[0]))
    assert digest_of_program(f, ONE) == digest_of_program(lambda x: x * 2, ONE)
    by_hand, plain = (jax.grad(lambda x, fn=fn: fn(x).sum()) for fn in (f, lambda x: x * 2))
    assert digest_of_program(by_hand, ONE) != digest_of_program(plain, ONE)


SCRIPT = """
    import jax, jax.numpy as jnp, numpy as np
    from nets import small_net
    from jaxviz.program._digest import digest_of_program
    kind = jnp.result_type(float)
    shape = jax.ShapeDtypeStruct((1, 16, 16, 3), kind)
    def net(params, images):
        images = jax.pure_callback(lambda x: x if x.dtype.name in {"float32", "float64"} else 2 * x, shape, images)
        images = jax.lax.fori_loop(0, 3, lambda i, x: jnp.where(x > 0.5, x, jnp.sin(x)), images)
        return small_net(params, images + np.linspace(0, 1, 3, dtype=kind).reshape(1, 1, 1, 3))
    sizes = {"w1": (3, 3, 3, 8), "b1": (8,), "w2": (3, 3, 8, 6), "w3": (6, 5)}
    params = {name: jax.ShapeDtypeStruct(size, kind) for name, size in sizes.items()}
    print(digest_of_program(net, params, shape), digest_of_program(jax.grad(lambda x: jnp.sin(x).sum()), shape))
"""


def test_every_process_has_the_same():
    def told(seed):
        environment = {**os.environ, "PYTHONPATH": PATHS, "PYTHONHASHSEED": seed, "JAX_PLATFORMS": "cpu"}
        command = [sys.executable, "-c", textwrap.dedent(SCRIPT)]
        return subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout

    first = told("1")
    assert len(first.split()) == 2
    assert told("2") == first


def test_parameters_are_told_by_place_type_shape_and_value(small_params):
    expected = digest_of(small_params)
    assert expected == digest_of(jax.tree.map(np.asarray, small_params))
    others = [
        small_params | {"b1": small_params["b1"] + 1},
        small_params | {"b1": small_params["b1"].reshape(2, 4)},
        small_params | {"b1": small_params["b1"].astype("bfloat16")},
        {{"b1": "b2"}.get(name, name): value for name, value in small_params.items()},
    ]
    assert len({expected, *map(digest_of, others)}) == 5
