"""Winograd's convolution: the same values and derivatives, for what it knows; the rest is left alone."""

import ctypes
import functools
import re
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import jax
import jax.numpy as jnp
import jaxlib
import numpy as np
import pytest
import skimage.data
from jax import lax
from nets import convolve

import jaxviz
from jaxviz.fast._swap import accelerate, hoist
from jaxviz.fast.machine_code import _machine
from jaxviz.fast.winograd import _convolution, _plan, _points
from jaxviz.program._edit import read_layers

# Rounding: tiles are taken to their values at six points and back. Measured 3e-6 of the largest value at 512 channels.
TOLERANCE = 1e-5


pytestmark = pytest.mark.skipif(_machine.machine() is None, reason="no machine code for this processor")


def random(*shape, seed=0):
    scale = np.float32(np.sqrt(np.prod(shape[:-1]) if len(shape) > 3 else 1))
    return jax.random.normal(jax.random.key(seed), shape, jnp.float32) / scale


def plain(kernel, images):
    return convolve(images, kernel)


def is_swapped(fn, *args):
    return "jaxviz_winograd" in str(jax.make_jaxpr(accelerate(fn))(*args))


@pytest.fixture(params=[None, _machine.Machine(8, 6)], ids=["this processor", "AVX2"])
def processor(request, monkeypatch):
    """Compute as on this processor, and as on one of shorter vectors."""
    if request.param:
        monkeypatch.setattr(_machine, "machine", lambda: request.param)
    _convolution.winograd_p.impl.clear_cache()  # eager calls keep programs that were made for the other one
    yield
    _convolution.winograd_p.impl.clear_cache()


def exact(fn, *args):
    """Return what a function gives in float64."""
    with jax.enable_x64(True):
        return jax.tree.map(np.asarray, fn(*(jnp.asarray(np.asarray(x), jnp.float64) for x in args)))


def agree(got, expected):
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(expected), strict=True):
        a, b = np.asarray(a), np.asarray(b)
        assert a.shape == b.shape
        scale = np.abs(b).max()
        assert np.isfinite(a).all()
        assert scale > 0
        np.testing.assert_allclose(a / scale, b / scale, atol=TOLERANCE)


SHAPES = [(1, 24, 24, 32, 64), (2, 17, 22, 64, 32), (9, 7, 9, 96, 160), (1, 60, 60, 64, 64), (1, 14, 14, 512, 32)]


@pytest.fixture(params=SHAPES, ids=str)
def data(request):
    *shape, inputs, outputs = request.param
    return random(3, 3, inputs, outputs, seed=1), random(*shape, inputs)


@pytest.mark.slow
@pytest.mark.parametrize("side", [_convolution.FAST, _convolution.EXACT])
@pytest.mark.parametrize("padding", [((1, 1), (1, 1)), ((0, 1), (2, 0))], ids=str)
def test_the_algorithm_in_numpy(data, processor, side, padding):
    """It is a convolution, to the rounding of float64; the machine code is the algorithm, to that of float32."""
    kernel, images = data
    expected = exact(
        lambda k, x: lax.conv_general_dilated(x, k, (1, 1), padding, dimension_numbers=_convolution.LAYOUT), *data
    )
    found = _points.convolve(np.float64(images), np.float64(kernel), padding, side)
    np.testing.assert_allclose(found, expected, atol=1e-13 * np.abs(expected).max())
    agree(_convolution.winograd_p.bind(images, kernel, adjoint=False, padding=padding, side=side), found)


@pytest.mark.slow
@pytest.mark.parametrize("decides", [False, True])
def test_values_and_gradients(data, processor, decides):
    assert is_swapped(plain, *data)
    fast = functools.partial(accelerate, exact=decides)
    agree(fast(plain)(*data), exact(plain, *data))
    loss = lambda fn: lambda k, x: jnp.sum(jnp.sin(3 * fn(k, x)))
    agree(jax.grad(loss(fast(plain)), (0, 1))(*data), exact(jax.grad(loss(plain), (0, 1)), *data))


@pytest.mark.parametrize("side", [_convolution.FAST, _convolution.EXACT])
def test_the_adjoint_is_the_adjoint(data, processor, side):
    """<g, conv(x)> = <adjoint(g), x>, to the rounding of both."""
    kernel, images = data
    g = random(*images.shape[:3], kernel.shape[3], seed=3)
    convolved = functools.partial(_convolution.winograd_p.bind, padding=((1, 1), (1, 1)), side=side)
    forth, back = convolved(images, kernel, adjoint=False), convolved(g, kernel, adjoint=True)
    size = jnp.linalg.norm(forth) * jnp.linalg.norm(g)
    np.testing.assert_allclose(jnp.vdot(forth, g) / size, jnp.vdot(back, images) / size, atol=1e-6)


@pytest.mark.parametrize("case", [(3, 45, 50, 64, 64), (1, 14, 15, 96, 160)], ids=["many tiles", "groups of channels"])
def test_threads_change_nothing(case, processor, monkeypatch):
    """To the bit: what each of them does does not depend on how many there are."""
    *shape, inputs, outputs = case
    kernel, images = random(3, 3, inputs, outputs, seed=1), random(*shape, inputs)
    results = []
    for work in (np.inf, 1e6, 1e4):
        monkeypatch.setattr(_plan, "WORK", work)
        monkeypatch.setattr("os.sched_getaffinity", lambda _: range(7))
        results.append(np.asarray(jax.jit(lambda k, x: accelerate(plain)(k, x))(kernel, images)))
    np.testing.assert_array_equal(results[0], results[1])
    np.testing.assert_array_equal(results[0], results[2])


def test_many_at_once(processor, monkeypatch):
    """Threads of users' own may call it at the same time."""
    monkeypatch.setattr(_plan, "WORK", 1e6)
    kernel, images = random(3, 3, 64, 64, seed=1), random(1, 60, 60, 64)
    fast = jax.jit(accelerate(plain))
    expected = np.asarray(fast(kernel, images))
    with ThreadPoolExecutor(8) as pool:
        for found in pool.map(lambda _: np.asarray(fast(kernel, images)), range(64)):
            np.testing.assert_array_equal(found, expected)


def test_types_and_shapes_are_those_of_a_plain_convolution():
    kernel, images = random(3, 3, 32, 32, seed=1), jnp.full((2, 17, 16, 32), 0.5, jnp.float32)
    assert (jax.jit(accelerate(plain))(kernel, images) + 1).dtype == jnp.float32
    nothing = jax.vmap(accelerate(plain), (None, 0))(kernel, jnp.zeros((0, 1, 17, 16, 32), jnp.float32))
    assert nothing.shape == (0, 1, 17, 16, 32)
    assert not is_swapped(plain, jnp.zeros((3, 3, 0, 32)), jnp.zeros((1, 16, 16, 0)))
    with jax.default_matmul_precision("BF16_BF16_F32"):
        assert not is_swapped(plain, kernel, images)


def test_other_processors_have_plain_convolutions(monkeypatch):
    monkeypatch.setattr(_machine, "machine", lambda: None)
    assert not is_swapped(plain, random(3, 3, 64, 64), random(1, 32, 32, 64))


@pytest.mark.slow
@pytest.mark.parametrize("padding", ["VALID", [(2, 2), (2, 2)], [(0, 1), (2, 0)]], ids=str)
def test_other_borders(padding, processor):
    kernel, images = 0.1 * random(3, 3, 32, 32, seed=1), random(2, 21, 26, 32)
    bordered = lambda k, x: convolve(x, k, padding=padding)
    loss = lambda fn: lambda k, x: jnp.sum(jnp.sin(3 * fn(k, x)))
    assert is_swapped(bordered, kernel, images)
    agree(accelerate(bordered)(kernel, images), exact(bordered, kernel, images))
    agree(
        jax.grad(loss(accelerate(bordered)), (0, 1))(kernel, images),
        exact(jax.grad(loss(bordered), (0, 1)), kernel, images),
    )


@pytest.mark.slow
def test_every_transformation():
    kernel, images = 0.1 * random(3, 3, 32, 32, seed=1), random(2, 17, 16, 32)
    fn = lambda k, x: jnp.sum(jnp.sin(plain(k, x)), (1, 2, 3))
    total = lambda k, x: jnp.sum(fn(k, x))
    fast = accelerate(total)
    agree(
        jax.jvp(accelerate(fn), (kernel, images), (1 - kernel, images)),
        exact(lambda k, x: jax.jvp(fn, (k, x), (1 - k, x)), kernel, images),
    )
    agree(
        jax.jvp(lambda x: jax.grad(fast, 1)(kernel, x), (images,), (images,)),
        exact(lambda k, x: jax.jvp(lambda x: jax.grad(total, 1)(k, x), (x,), (x,)), kernel, images),
    )
    stack = jnp.stack([images, -images, 2 * images])
    agree(
        jax.vmap(jax.grad(fast, 1), (None, 0))(kernel, stack),
        exact(lambda k, x: jax.vmap(jax.grad(total, 1), (None, 0))(k, x), kernel, stack),
    )
    kernels = jnp.stack([kernel, -kernel])
    agree(
        jax.vmap(jax.grad(fast, 1), (0, None))(kernels, images),
        exact(lambda k, x: jax.vmap(jax.grad(total, 1), (0, None))(k, x), kernels, images),
    )
    kernels = jnp.stack([kernel, 2 * kernel])
    of_all = lambda fn: jax.grad(lambda k, x: jnp.sum(jax.vmap(fn, (0, None))(k, x)), (0, 1))
    agree(of_all(fast)(kernels, images), exact(of_all(total), kernels, images))
    both = lambda fn: jax.grad(lambda k, x: jnp.sum(jax.vmap(fn)(k, x)), (0, 1))
    agree(both(fast)(kernels, stack[:2]), exact(both(total), kernels, stack[:2]))
    agree(jax.jit(jax.grad(jax.checkpoint(fast)))(kernel, images), exact(jax.grad(total), kernel, images))


OTHERS = {
    "strided": {"stride": 2},
    "wide border": {"padding": [(3, 1), (1, 1)]},
    "cropping": {"padding": [(1, 1), (1, -1)]},
    "dilated": {"rhs_dilation": (2, 2), "padding": [(2, 2), (2, 2)]},
    "spread": {"lhs_dilation": (2, 2), "padding": [(1, 1), (1, 1)]},
    "groups": {"feature_group_count": 2},
    "exact": {"precision": "highest"},
}


@pytest.mark.parametrize("case", OTHERS)
def test_what_it_does_not_know_is_left_alone(case):
    inputs = 32 if case == "groups" else 64
    kernel, images = random(3, 3, inputs, 64), random(2, 24, 24, 64)
    fn = lambda k, x: convolve(x, k, **{"padding": "SAME"} | OTHERS[case])
    assert not is_swapped(fn, kernel, images)


@pytest.mark.parametrize(
    ("kernel", "images"),
    [
        pytest.param((3, 3, 3, 64), (1, 64, 64, 3), id="few channels"),
        pytest.param((3, 3, 48, 64), (1, 64, 64, 48), id="channels that fill no vectors"),
        pytest.param((5, 5, 64, 64), (1, 64, 64, 64), id="another kernel"),
        pytest.param((3, 3, 64, 64), (1, 5, 5, 64), id="few tiles"),
    ],
)
def test_what_does_not_pay_is_left_alone(kernel, images):
    assert not is_swapped(plain, random(*kernel), random(*images))


def test_float64_and_another_layout_are_left_alone():
    with jax.enable_x64(True):
        assert not is_swapped(plain, jnp.ones((3, 3, 32, 32), jnp.float64), jnp.ones((1, 32, 32, 32), jnp.float64))
    other = lambda k, x: lax.conv_general_dilated(x, k, (1, 1), "SAME")
    assert not is_swapped(other, jnp.ones((32, 32, 3, 3)), jnp.ones((1, 32, 32, 32)))


def test_small_tiles_decide_as_a_plain_convolution_does(processor):
    """They round no more, and what is flat stays flat, so that the same of equal values is the largest in a window."""
    kernel, images = random(3, 3, 64, 64), jax.nn.relu(random(1, 24, 24, 64))
    small = accelerate(plain, exact=True)
    expected = exact(plain, kernel, images)
    error, least = (np.std(np.asarray(fn(kernel, images)) - expected) for fn in (small, plain))
    assert 0 < error < 1.5 * least  # another sum, as exact
    inside = np.asarray(small(kernel, jnp.broadcast_to(images[:, :1, :1], images.shape)))[0, 1:-1, 1:-1]
    np.testing.assert_array_equal(inside, np.broadcast_to(inside[0, 0], inside.shape))


@pytest.mark.parametrize("channels", [64, 48], ids=["small tiles", "plain"])
def test_what_is_out_of_reach_has_no_gradient(channels):
    kernel, images = random(3, 3, channels, channels), random(2, 24, 24, channels)
    found = jax.grad(lambda x: accelerate(plain, exact=True)(kernel, x)[1, 7, 9, 0])(images)
    expected = jax.grad(lambda x: plain(kernel, x)[1, 7, 9, 0])(images)
    np.testing.assert_array_equal(found != 0, expected != 0)
    np.testing.assert_allclose(found, expected, atol=1e-6)


def test_attributions_decide_by_small_tiles():
    """On the way forward, where ReLUs and max-pools decide. Nothing does on the way back, nor where no gradient is."""
    params, images = [random(3, 3, 3, 32), random(3, 3, 32, 32)], random(1, 48, 48, 3)
    score = jaxviz.channel(lambda params, x: convolve(convolve(x, params[0]), params[1]), "conv_1", 0)

    def swapped(method):
        program = str(jax.make_jaxpr(lambda x: method(score, params, x))(images))
        return set(re.findall(r"jaxviz_winograd\[\s*adjoint=(\w+)[^\]]*side=(\d)", program))

    assert swapped(jaxviz.saliency) == {("False", "2"), ("True", "4")}
    assert swapped(jaxviz.occlusion) == {("False", "4")}


def test_highest_precision_opts_out():
    kernel, images = random(3, 3, 32, 32), random(1, 24, 24, 32)
    assert is_swapped(plain, kernel, images)
    with jax.default_matmul_precision("highest"):
        assert not is_swapped(plain, kernel, images)


@pytest.mark.slow
@pytest.mark.weights
@pytest.mark.parametrize("decides", [False, True])
def test_every_layer_of_a_real_network(decides):
    """On a photograph: within 1e-5 of the largest value in float64, ReLUs, pools and all."""
    net, params = jaxviz.load("vgg16_features")
    images = jaxviz.load_image(skimage.data.astronaut(), size=160)[None]
    names = [f"relu{stage}_{i}" for stage, count in enumerate((2, 2, 3, 3, 3), 1) for i in range(1, count + 1)]
    read = read_layers(net, tuple(names))
    found = accelerate(read, exact=decides)(params, images)
    with jax.enable_x64(True):
        expected = jax.tree.map(np.asarray, read(*jax.tree.map(lambda x: jnp.asarray(np.float64(x)), (params, images))))
    agree(found, expected)


# In loops


def loop(fn, kernel, images, *, hoisted):
    turn = lambda i, x: jnp.tanh(x - jax.grad(lambda x: jnp.sum(jnp.sin(fn(kernel, x))))(x))
    return lax.fori_loop(0, 4, hoist(turn, 0, images) if hoisted else turn, images)


@pytest.mark.parametrize("size", [32, 8], ids=["by tiles", "too few tiles"])
def test_a_hoisted_loop_gives_the_same(size):
    kernel, images = 0.1 * random(3, 3, 32, 32), random(1, size, size, 32)
    run = lambda hoisted: jax.jit(lambda k, x: loop(accelerate(plain), k, x, hoisted=hoisted))(kernel, images)
    agree(run(True), exact(lambda k, x: loop(plain, k, x, hoisted=False), kernel, images))
    agree(run(False), run(True))


def test_a_kernel_that_changes_stays_in_the_loop():
    kernels, images = random(3, 3, 32, 32), random(1, 32, 32, 32)
    fast = accelerate(plain)
    turn = lambda i, x: fast(kernels * (i + 1), x)
    body = hoist(turn, 0, images)
    agree(lax.fori_loop(0, 2, body, images), exact(lambda k, x: plain(2 * k, plain(k, x)), kernels, images))


@pytest.mark.slow
def test_the_gradient_of_a_hoisted_loop():
    """Users may differentiate what jaxviz computes in loops, with respect to parameters too."""
    kernel, images = 0.1 * random(3, 3, 32, 32), random(1, 24, 24, 32)

    def fn(a, wrapped):
        def total(kernel, images):
            turn = lambda x: jnp.tanh(a(plain)(kernel, x))
            return jnp.sum(lax.map(wrapped(turn, images), jnp.stack([images, 2 * images])))

        return jax.grad(total, (0, 1))

    agree(fn(accelerate, hoist)(kernel, images), exact(fn(lambda f: f, lambda f, _: f), kernel, images))


def test_names_are_found_in_an_accelerated_network():
    kernel, images = random(3, 3, 32, 32), random(1, 24, 24, 32)
    fast = accelerate(lambda params, images: jax.nn.relu(convolve(images, params["conv"]["kernel"])))
    params = {"conv": {"kernel": kernel}}
    assert list(jaxviz.layers(fast, params, images)) == ["conv_0", "relu_0"]
    agree(jaxviz.capture(fast, "conv")(params, images)[1]["conv"], exact(plain, kernel, images))


def test_the_derivative_of_a_gradient_that_is_zero():
    """Where a gradient is zero, its derivative need not be: here of the weight of a score that nothing has yet."""
    images, kernel, (one, other) = random(1, 24, 24, 32), random(3, 3, 32, 64, seed=1), random(2, 1, 24, 24, 64, seed=2)
    maps = accelerate(lambda images: convolve(images, kernel))
    assert is_swapped(lambda images: convolve(images, kernel), images)

    def gradient(weight):
        some = (one > 1).astype(one.dtype) * one
        return jax.grad(lambda x: jnp.sum(maps(x) * ((1 - weight) * some + weight * other)))(images)

    slope = jax.jvp(gradient, (0.0,), (1.0,))[1]
    np.testing.assert_allclose(slope, gradient(1.0) - gradient(0.0), atol=TOLERANCE * jnp.abs(slope).max() * 10)


def test_compiled_code_is_kept_with_jax_s(tmp_path, monkeypatch):
    """And compiled again where the file is damaged: it is not run."""
    from jaxviz.fast.machine_code import _ffi

    monkeypatch.setattr(_ffi, "_folder", lambda: tmp_path)
    program = "define i32 @seven() {\n  ret i32 7\n}"
    run = lambda: ctypes.CFUNCTYPE(ctypes.c_int)(_ffi._compiled(program).get_function_address("seven"))()
    assert run() == 7
    (file,) = tmp_path.iterdir()
    whole = file.read_bytes()
    for damaged in (b"", whole[:40], whole[:-1] + bytes([whole[-1] ^ 1])):
        file.write_bytes(damaged)
        assert _ffi._kept(file) is None
        assert run() == 7
        assert file.read_bytes() == whole
    monkeypatch.setattr(_ffi, "_keep", lambda *_: pytest.fail("compiled again"))
    assert run() == 7
    with pytest.raises(pytest.fail.Exception, match="compiled again"):  # another program has another file
        _ffi._compiled(program.replace("7", "8"))


def test_structures_are_those_of_xla_s_header():
    """Field by field, up to the last that is needed; ctypes lays them out as C does."""
    from jaxviz.fast.machine_code import _ffi

    header = (Path(jaxlib.__file__).parent / "include" / "xla" / "ffi" / "api" / "c_api.h").read_text()
    header = re.sub(r"//.*", "", header)
    structures = {
        name: kind for name, kind in vars(_ffi).items() if name.startswith("XLA_FFI_") and isinstance(kind, type)
    }
    assert len(structures) == 8
    sizes = {"size_t": 8, "int64_t": 8, "int": 4, "XLA_FFI_Handler_Traits": 4, "XLA_FFI_DataType": 4}
    sizes |= {"XLA_FFI_ExecutionStage": 4, "XLA_FFI_Extension_Type": 4}
    sizes |= {name: ctypes.sizeof(kind) for name, kind in structures.items()}
    for name, kind in structures.items():
        (body,) = re.findall(rf"struct {name} {{(.*?)}}", header, re.DOTALL)
        fields = re.findall(r"([\w ]+?)\s*(\**)\s*(\w+);", body)
        assert [field for field, *_ in kind._fields_] == [field for *_, field in fields[: len(kind._fields_)]]
        for (of, pointer, field), (_, given, *_) in zip(fields, kind._fields_, strict=False):
            assert ctypes.sizeof(given) == (8 if pointer else sizes[of.strip()]), (name, field)
    assert re.search(rf"XLA_FFI_Extension_Metadata = {_ffi.XLA_FFI_Extension_Metadata},", header)


@pytest.mark.parametrize(("exactly", "allowed"), [(False, 2e-6), (True, 0)])
def test_beside_a_pixel_that_is_far_larger(exactly, allowed):
    """Tiles of 4x4 round what they hold as their largest number; tiles of 2x2 as a plain convolution does."""
    kernel, images = random(3, 3, 32, 32, seed=1), random(1, 28, 28, 32)
    others = np.ones((28, 28), bool)
    others[13:16, 13:16] = False  # results that do not see the pixel
    for larger in (1e3, 1e6):
        scaled = images.at[0, 14, 14].multiply(larger)
        got = _convolution.convolve(scaled, kernel, ((1, 1), (1, 1)), exact=exactly)
        expected = exact(lambda images, kernel: convolve(images, kernel), scaled, kernel)[0, others]
        error = np.abs(np.asarray(got)[0, others] - expected).max() / np.abs(expected).max()
        assert error <= allowed * larger + TOLERANCE / 5
