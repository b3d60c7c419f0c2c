"""A network made again compiles nothing where its program is the same, and has its own results where it is not."""

import contextlib
import gc
import weakref

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.ad_checkpoint import checkpoint_name
from net_calls import CALLS, EYE, IMAGES, head

import jaxviz
from jaxviz.program._compiled import compiled

# The networks here are written as users write them.
pytestmark = pytest.mark.usefixtures("users_promotions")

ONES, TWOS = jnp.ones(12), jnp.full(12, 2.0)
X = jnp.linspace(-1.0, 2.0, 48).reshape(4, 12)


@compiled(static_argnums=0)
def value(net, x):
    return net(x)


@compiled(static_argnums=0)
def slope(net, x):
    return jax.grad(lambda x: jnp.sum(net(x)))(x)


@contextlib.contextmanager
def compilations(caplog):
    """Collect what is compiled meanwhile."""
    found = []
    caplog.clear()
    with jax.log_compiles():
        yield found
    found += [message for message in caplog.messages if "XLA compilation" in message]


# Where the program is the same


def plain(i):
    return lambda x: jnp.tanh(x) * 2


def over_weights(i):
    weights = jax.random.normal(jax.random.key(i), (12, 30))
    return lambda x: x @ weights


def over_numpy_weights(i):
    weights = np.random.default_rng(i).normal(size=(12, 30)).astype(np.float32)
    return lambda x: x @ weights


def over_a_scalar_array(i):
    scale = jnp.float32(i)
    return lambda x: scale * x


def over_weights_in_jit(i):
    weights = jax.random.normal(jax.random.key(i), (12, 12))
    inner = jax.jit(lambda x: jax.nn.relu(x @ weights))
    return lambda x: inner(inner(x)) + weights[0]


def over_weights_in_a_loop(i):
    weights = jax.random.normal(jax.random.key(i), (12, 12))
    return lambda x: jax.lax.scan(lambda c, _: (jax.nn.relu(c @ weights), None), x, None, length=3)[0]


def with_a_rule(i):
    @jax.custom_vjp
    def clipped(x):
        return jnp.clip(x, 0, 1)

    clipped.defvjp(lambda x: (clipped(x), None), lambda _, g: (3 * g,))
    return lambda x: clipped(x) * 2


SAME = [
    plain, over_weights, over_numpy_weights, over_a_scalar_array, over_weights_in_jit, over_weights_in_a_loop,
    with_a_rule,
]  # fmt: skip


@pytest.mark.parametrize("call", [value, slope], ids=["value", "slope"])
@pytest.mark.parametrize("make", SAME)
def test_what_is_made_again_compiles_nothing(make, call, caplog):
    call(make(0), X)
    for i in (1, 2):
        net = make(i)
        with compilations(caplog) as found:
            result = call(net, X)
        assert found == []
        np.testing.assert_allclose(result, jax.jit(call.__wrapped__, static_argnums=0)(net, X), rtol=1e-5, atol=1e-6)


@pytest.mark.slow
def test_fifty_checkpoints_compile_once(caplog):
    def build(width):
        return lambda params, images: jax.nn.relu(images @ params["w1"]).mean((1, 2)) @ params["w2"][:width]

    maps = []
    for i in range(50):
        params = {"w1": (1.0 + i) * jnp.ones((3, 8)), "w2": jnp.ones((8, 5))}
        net = lambda p, x: build(8)(p, x)
        score = jaxviz.logit(net, 3)
        with compilations(caplog) as found:
            maps.append(jaxviz.saliency(score, params, IMAGES))
        assert (found == []) == (i > 0)
    np.testing.assert_allclose(maps[49], 50 * maps[0], rtol=1e-5)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:integrated_gradients")
@pytest.mark.parametrize("name", [name for name in CALLS if name not in ("capture", "replace", "with_relu")])
def test_every_function_compiles_nothing_for_a_network_made_again(name, caplog):
    call, _ = CALLS[name]
    call(lambda p, x: head(p, x))
    call(lambda p, x: head(p, x))  # what was compiled for results of the first, such as their sum, is there now
    with compilations(caplog) as found:
        call(lambda p, x: head(p, x))
    assert found == []


# Where it is another


def jvp_rule(factor):
    @jax.custom_jvp
    def fn(x):
        return jnp.sin(x)

    fn.defjvp(lambda primals, tangents: (fn(*primals), factor * tangents[0]))
    return lambda x: fn(x) * 1.0


def vjp_rule(factor):
    @jax.custom_vjp
    def fn(x):
        return jnp.sin(x)

    fn.defvjp(lambda x: (jnp.sin(x), None), lambda _, g: (factor * g,))
    return lambda x: fn(x) * 1.0


def host(factor):
    shape = jax.ShapeDtypeStruct(X.shape, X.dtype)
    call = jax.custom_jvp(lambda x: jax.pure_callback(lambda x: np.float32(factor) * np.asarray(x), shape, x))
    call.defjvp(lambda primals, tangents: (call(*primals), tangents[0]))
    return lambda x: call(x)


def loop(constant):
    return lambda x: jax.lax.scan(lambda c, _: (c * constant + 1, None), x, None, length=3)[0]


def inner_loop(weights):
    inner = jax.jit(lambda x: x * weights)
    return lambda x: jax.lax.scan(lambda c, _: (inner(c), None), x, None, length=2)[0]


def times(factors):
    return lambda x: x * factors


def columns(numbers):
    return lambda x: x[:, numbers]


def branch(first, second):
    return lambda x: jax.lax.cond(x[0, 0] < 0, first, second, x)


OTHERS = {
    "a constant": [lambda x: x * 2.0, lambda x: x * 3.0],
    "zeros of two signs": [lambda x: jnp.arctan2(0.0 * x, jnp.float32(0.0)), lambda x: jnp.arctan2(-0.0 * x, -1.0)],
    "signs of a constant zero": [lambda x: x * jnp.copysign(1.0, 0.0), lambda x: x * jnp.copysign(1.0, -0.0)],
    "a zero's sign": [lambda x: x / jnp.maximum(0.0, x), lambda x: x / jnp.maximum(-0.0, x)],
    "true and one": [lambda x: x + jnp.asarray(True), lambda x: x + jnp.asarray(2)],
    "numpy's small array": [times(np.ones(12, "f4")), times(np.full(12, 2, "f4"))],
    "numpy's large array": [times(np.ones((4, 12), "f4")), times(np.full((4, 12), 2, "f4"))],
    "numpy's indices": [columns(np.array([0, 1])), columns(np.array([0, 2]))],
    "jax's array": [times(ONES), times(TWOS)],
    "two arrays exchanged": [
        lambda x: x * ONES - TWOS,
        lambda x: x * TWOS - ONES,
    ],
    "one array twice": [
        lambda x: x * ONES - TWOS,
        lambda x: x * TWOS - TWOS,
    ],
    "operands exchanged": [lambda x: x - x**2, lambda x: x**2 - x],
    "an axis": [lambda x: jnp.cumsum(x, 0), lambda x: jnp.cumsum(x, 1)],
    "a direction": [lambda x: jax.lax.cumsum(x, 1), lambda x: jax.lax.cumsum(x, 1, reverse=True)],
    "a window": [
        lambda x: jax.lax.reduce_window(x, -jnp.inf, jax.lax.max, (1, 2), (1, 2), "VALID"),
        lambda x: jax.lax.reduce_window(x, -jnp.inf, jax.lax.max, (1, 2), (1, 1), "VALID"),
    ],
    "a permutation": [lambda x: jnp.sort(x, 1), lambda x: jnp.sort(x, 0)],
    "an exponent": [lambda x: x**2, lambda x: x**3],
    "a type between": [lambda x: x.astype("bfloat16") + 0, lambda x: x.astype("float16") + 0],
    "rules of jvp": [jvp_rule(2), jvp_rule(3)],
    "rules of vjp": [vjp_rule(2), vjp_rule(3)],
    "a rule and none": [jvp_rule(2), lambda x: jnp.sin(x) * 1.0],
    "functions of the host": [host(2), host(3)],
    "a constant in a loop": [loop(2.0), loop(3.0)],
    "arrays in a loop": [inner_loop(jnp.ones(12)), inner_loop(jnp.full(12, 2.0))],
    "numpy's arrays in a loop": [inner_loop(np.ones(12, "f4")), inner_loop(np.full(12, 2, "f4"))],
    "turns": [
        lambda x: jax.lax.fori_loop(0, 2, lambda i, c: jnp.sin(c), x),
        lambda x: jax.lax.fori_loop(0, 3, lambda i, c: jnp.sin(c), x),
    ],
    "branches": [branch(jnp.sin, jnp.cos), branch(jnp.cos, jnp.sin)],
    "keys": [
        lambda x: x * jax.random.normal(jax.random.key(1), x.shape),
        lambda x: x * jax.random.normal(jax.random.key(2), x.shape),
    ],
    "kinds of keys": [
        lambda x: x * jax.random.normal(jax.random.key(1, impl="threefry2x32"), x.shape),
        lambda x: x * jax.random.normal(jax.random.key(1, impl="rbg"), x.shape),
    ],
    "what is returned": [lambda x: (x + 1, x * 2)[0], lambda x: (x + 1, x * 2)[1]],
    "remat": [jax.checkpoint(lambda x: jnp.sin(x) * 2), jax.checkpoint(lambda x: jnp.sin(x) * 3)],
    "bounds of integers": [lambda x: jnp.clip(x, 0, 1), lambda x: jnp.clip(x, 0, 2)],
}


@pytest.mark.parametrize("call", [value, slope], ids=["value", "slope"])
@pytest.mark.parametrize("nets", OTHERS.values(), ids=OTHERS)
def test_another_program_has_its_own_results(nets, call):
    by_itself = jax.jit(call.__wrapped__, static_argnums=0)
    found = [call(net, X) for net in (*nets, *nets[::-1])]
    expected = [by_itself(net, X) for net in nets]
    for one, other in zip(found, (*expected, *expected[::-1]), strict=True):
        np.testing.assert_array_equal(one, other)


def test_nets_that_differ_in_a_name_only():
    def named(first, second):
        return lambda p, x: checkpoint_name(checkpoint_name(x @ p, first) * 2, second).mean((1, 2))

    scores = [jaxviz.channel(named(*names), "a", 0) for names in (("a", "b"), ("b", "a"))]
    one, other = (jaxviz.gradient(score, EYE, IMAGES) for score in scores)
    np.testing.assert_allclose(2 * one, other, rtol=1e-6)


def test_settings_and_weak_types_are_told_apart(x64):
    net = lambda x: x @ x.T + 1
    wide, narrow = X.astype(jnp.float64), X.astype(jnp.float32)
    for precision in ("default", "highest", "default"):
        with jax.default_matmul_precision(precision):
            assert value(net, wide).dtype == jnp.float64
            assert value(net, narrow).dtype == jnp.float32
    with jax.enable_x64(False):
        assert value(net, narrow).dtype == jnp.float32
    scaled = lambda x: x * jnp.ones((), jnp.bfloat16)
    weak = jnp.asarray(1.0)
    assert weak.weak_type
    strong = jnp.asarray(1.0, weak.dtype)
    for x, expected in ((weak, jnp.bfloat16), (strong, strong.dtype), (weak, jnp.bfloat16), (1.0, jnp.bfloat16)):
        with jax.numpy_dtype_promotion("standard"):
            assert value(scaled, x).dtype == expected


def test_what_was_forgotten_is_compiled_again():
    net = lambda x: x * 5
    first = value(net, X)
    jax.clear_caches()
    np.testing.assert_array_equal(value(net, X), first)


def test_an_array_that_changes_after_its_program_was_compiled():
    """NumPy's arrays are read when a network is traced, as by `jax.jit`."""
    shift = np.arange(12)
    make = lambda: lambda x: x + shift.astype("f4")
    before = value(make(), X)
    shift += 1
    np.testing.assert_allclose(value(make(), X), before + 1, rtol=1e-6)


# Freed


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:integrated_gradients")
@pytest.mark.parametrize("name", CALLS)
def test_networks_that_nobody_has_leave_nothing(name):
    call, _ = CALLS[name]
    refs, sizes = [], []
    for i in range(100 if name == "saliency" else 5):
        weights = (1.0 + i) * jnp.eye(3)
        net = lambda p, x, weights=weights: head(p, x @ weights)
        refs += [weakref.ref(net), weakref.ref(weights)]
        call(net)
        del net, weights
        if i % 10 in (2, 4):
            gc.collect()
            sizes.append(sum(x.nbytes for x in jax.live_arrays()))
    gc.collect()
    assert [ref() for ref in refs if ref() is not None] == []
    assert len({*sizes}) == 1, sizes


def test_a_program_that_is_kept_keeps_no_array():
    made = [over_weights_in_jit(0), over_weights(0)]
    kept = [weakref.ref(net.__closure__[0].cell_contents) for net in made[1:]]
    for net in made:
        slope(net, X)
    kept += [weakref.ref(each) for each in made]
    del made, net
    gc.collect()
    assert [ref() for ref in kept if ref() is not None] == []
