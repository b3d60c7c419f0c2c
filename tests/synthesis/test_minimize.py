"""The loop under every synthesized image: a plain optax loop, whatever the chunks, data and number of steps."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from processes import on_eight_devices

import jaxviz
from jaxviz.synthesis import _minimize

KEY = jax.random.key(3)
TARGET = jnp.linspace(-1.0, 1.0, 6).reshape(2, 3)
ADAM = optax.adam(0.05)


def noisy(x, key, target, scale):
    """A loss that uses its key, so that a wrong one shows."""
    return jnp.sum((x - target) ** 4) + scale * jnp.sum(x * jax.random.normal(key, x.shape, x.dtype))


def fresh():
    """Return a loss that no earlier test has compiled, and the list that grows when it is traced."""
    traces = []

    def loss(*args):
        traces.append(1)
        return noisy(*args)

    return loss, traces


def run(loss=noisy, key=KEY, target=TARGET, scale=0.1, steps=21, **options):
    start = jnp.zeros_like(target)
    return jaxviz.minimize(loss, start, key, data=(target, scale), steps=steps, **{"optimizer": ADAM} | options)


@pytest.mark.slow
@pytest.mark.parametrize(
    "optimizer", [ADAM, optax.sgd(0.1, momentum=0.9), optax.chain(optax.clip(0.1), optax.sgd(1.0))]
)
def test_equals_a_plain_optax_loop(x64, optimizer):
    target = TARGET.astype(jnp.float64)
    x, losses = jnp.zeros_like(target), []
    state = optimizer.init(x)
    for i in range(21):
        value, grads = jax.value_and_grad(noisy)(x, jax.random.fold_in(KEY, i), target, 0.1)
        updates, state = optimizer.update(grads, state, x)
        x = optax.apply_updates(x, updates)
        losses.append(value)
    found = run(target=target, optimizer=optimizer)
    np.testing.assert_allclose(found.variables, x, rtol=1e-12)
    np.testing.assert_allclose(found.losses, losses, rtol=1e-12)
    assert found.variables.dtype == found.losses.dtype == jnp.float64


def test_the_first_loss_is_that_of_the_start():
    """Losses are those before each step, one a step."""
    for steps in (1, 8, 9):
        losses = run(steps=steps).losses
        assert losses.shape == (steps,)
        expected = noisy(jnp.zeros_like(TARGET), jax.random.fold_in(KEY, 0), TARGET, 0.1)
        np.testing.assert_allclose(losses[0], expected, rtol=1e-6)
    np.testing.assert_array_equal(run(steps=9).losses, run(steps=21).losses[:9])


@pytest.mark.parametrize("chunk", [1, 5, 8, 64])
def test_the_chunks_do_not_matter(chunk, monkeypatch):
    expected = run(fresh()[0])
    monkeypatch.setattr(_minimize, "CHUNK", chunk)
    loss, _ = fresh()  # else the programs of other chunks would be used
    seen = []
    found = run(loss, every=chunk, callback=lambda now: seen.append(len(now.losses)))
    assert seen == [*range(chunk, 21, chunk), 21]
    np.testing.assert_allclose(found.variables, expected.variables, rtol=1e-6)
    np.testing.assert_allclose(found.losses, expected.losses, rtol=1e-6)


def test_callback():
    seen = []
    callback = lambda now: seen.append((np.array(now.variables), now.losses, now.finished))
    found = run(callback=callback)
    assert [(len(losses), finished) for _, losses, finished in seen] == [(8, False), (16, False), (21, True)]
    for x, losses, _ in seen:
        np.testing.assert_array_equal(losses, found.losses[: len(losses)])
        np.testing.assert_array_equal(x, run(steps=len(losses)).variables)
    np.testing.assert_array_equal(run().variables, found.variables)  # to be watched changes nothing


def test_what_the_caller_holds_is_left_alone():
    """Memory is reused in the loop, but not the caller's, even where one array is held twice."""
    start = jnp.full((2, 3), 0.5)
    variables = {"a": start, "b": [start, np.full((2, 3), 0.5, np.float32)]}
    loss = lambda v, key, data: jnp.sum(
        v["a"] ** 2 + v["b"][0] ** 4 + jnp.abs(v["b"][1] - data.astype(np.float32)).astype(data.dtype)
    )
    for _ in range(2):
        found = jaxviz.minimize(loss, variables, KEY, data=(start,), steps=9, optimizer=ADAM)
        assert not start.is_deleted()
        np.testing.assert_array_equal(start, 0.5)
        np.testing.assert_array_equal(variables["b"][1], 0.5)
    assert all(jnp.all(leaf != start) for leaf in jax.tree.leaves(found.variables)[:2])
    np.testing.assert_array_equal(jax.random.key_data(KEY), jax.random.key_data(jax.random.key(3)))


def test_variables_are_any_pytree():
    """Each leaf ends where it would alone, for the optimizer is elementwise."""
    targets = {"x": jnp.array([1.0, 2.0]), "y": (jnp.array([[-3.0]]),)}
    loss = lambda v, key, target: sum(
        jnp.sum((a - b) ** 2) for a, b in zip(jax.tree.leaves(v), jax.tree.leaves(target), strict=True)
    )
    start = jax.tree.map(jnp.zeros_like, targets)
    found = jaxviz.minimize(loss, start, KEY, data=(targets,), steps=30, optimizer=ADAM)
    assert jax.tree.structure(found.variables) == jax.tree.structure(targets)
    alone = jaxviz.minimize(loss, start["x"], KEY, data=(targets["x"],), steps=30, optimizer=ADAM)
    np.testing.assert_allclose(found.variables["x"], alone.variables, rtol=1e-6)
    assert found.losses[-1] < 0.7 * found.losses[0]


def test_the_same_key_gives_the_same_bits():
    first, again, other = run(), run(), run(key=jax.random.key(4))
    assert np.asarray(first.variables).tobytes() == np.asarray(again.variables).tobytes()
    assert np.asarray(first.losses).tobytes() == np.asarray(again.losses).tobytes()
    assert jnp.all(first.variables != other.variables)


def test_other_data_keys_and_steps_compile_nothing():
    loss, traces = fresh()
    first = run(loss)
    count = len(traces)
    assert count > 0
    found = [
        run(loss, steps=3),
        run(loss, steps=64),
        run(loss, target=2 * TARGET),
        run(loss, scale=0.7),
        run(loss, key=jax.random.key(9)),
    ]
    assert len(traces) == count
    assert all(jnp.any(first.variables != other.variables) for other in found)  # and they are really others
    run(loss, optimizer=optax.sgd(0.1))
    assert len(traces) > count  # counting works


@pytest.mark.parametrize(("bad", "step"), [(jnp.nan, 0), (jnp.nan, 11), (jnp.inf, 15), (-jnp.inf, 16)])
def test_a_loss_that_is_not_finite_stops_at_its_step(bad, step):
    """`x` counts the steps."""
    seen = []
    loss = lambda x, key, bad, at: jnp.where(x == at, bad, -x)
    message = f"the loss is {float(bad)} at step {step}; a smaller learning rate"
    with pytest.raises(FloatingPointError, match=message) as raised:
        jaxviz.minimize(
            loss,
            jnp.zeros(()),
            KEY,
            data=(bad, step),
            steps=40,
            optimizer=optax.sgd(1.0),
            callback=lambda now: seen.append((len(now.losses), float(now.variables), now.finished)),
        )
    chunks = list(range(8, step + 1, 8))
    assert seen == [(i, i, False) for i in [*chunks, step]]  # no later chunk was run
    last = raised.value.found
    assert last.variables == len(last.losses) == step  # as good as it got
    assert not last.finished
    losses = jaxviz.minimize(loss, jnp.zeros(()), KEY, data=(bad, 50), steps=40, optimizer=optax.sgd(1.0)).losses
    np.testing.assert_array_equal(losses, -np.arange(40))


def test_under_jit():
    raw = run()
    jitted = jax.jit(lambda key, target: run(key=key, target=target))(KEY, TARGET)
    np.testing.assert_allclose(jitted.variables, raw.variables, atol=1e-6)
    np.testing.assert_allclose(jitted.losses, raw.losses, rtol=1e-5)


VMAPS = pytest.mark.parametrize("vmap", [jax.vmap, lambda f: jax.jit(jax.vmap(f))], ids=["vmap", "jit of vmap"])


@pytest.mark.slow
@VMAPS
def test_under_vmap_of_the_start(vmap):
    starts = jnp.stack([TARGET, 0 * TARGET, -TARGET])
    run = lambda x: jaxviz.minimize(noisy, x, KEY, data=(TARGET, 0.1), steps=21, optimizer=ADAM)
    mapped = vmap(run)(starts)
    assert mapped.losses.shape == (3, 21)
    for i, start in enumerate(starts):
        np.testing.assert_allclose(mapped.variables[i], run(start).variables, atol=1e-6)
        np.testing.assert_allclose(mapped.losses[i], run(start).losses, rtol=1e-5, atol=1e-5)


@VMAPS
def test_under_vmap_of_the_key(vmap):
    keys = jax.random.split(KEY, 3)
    mapped = vmap(lambda key: run(key=key))(keys)
    assert mapped.losses.shape == (3, 21)
    for i, key in enumerate(keys):
        expected = run(key=key)
        np.testing.assert_allclose(mapped.variables[i], expected.variables, atol=1e-6)
        np.testing.assert_allclose(mapped.losses[i], expected.losses, rtol=1e-5, atol=1e-5)


def test_projections_are_part_of_the_optimizer():
    """A step that would leave [0, 1] ends at its edge."""
    clip = optax.stateless(lambda updates, x: jnp.clip(x + updates, 0, 1) - x)
    found = run(target=10 * TARGET, scale=0.0, optimizer=optax.chain(optax.adam(0.5), clip), steps=20)
    np.testing.assert_array_equal(found.variables, np.asarray(TARGET > 0, np.float32))


@pytest.mark.parametrize("steps", [0, -3])
def test_no_steps(steps):
    with pytest.raises(ValueError, match=f"steps: expected 1 step or more, got {steps}"):
        run(steps=steps)


def test_a_gradient_that_is_not_finite_stops_too():
    """The square root's is infinite at zero, where its value is not."""
    loss = lambda x, key: jnp.sum(jnp.sqrt(x))
    start = jnp.array([0.0, 1.0])
    with pytest.raises(jaxviz.DivergedError, match="the gradient is not finite at step 0") as raised:
        jaxviz.minimize(loss, start, KEY, steps=3, optimizer=optax.sgd(0.1))
    np.testing.assert_array_equal(raised.value.found.variables, start)


@pytest.mark.parametrize("optimizer", [ADAM, optax.sgd(0.1, momentum=0.9), optax.lbfgs(0.1, linesearch=None)])
@pytest.mark.parametrize("at", [5, 8, 16])
def test_a_run_that_is_stopped_and_resumed_equals_one_that_is_not(at, optimizer):
    whole = run(optimizer=optimizer)
    half = run(optimizer=optimizer, every=at, callback=lambda now: len(now.losses) >= at)
    assert len(half.losses) == at
    assert not half.finished
    kept = [np.array(x) for x in half.state]  # as from a file
    rest = run(optimizer=optimizer, resume=kept)
    assert rest.finished
    np.testing.assert_array_equal(rest.variables, whole.variables)
    np.testing.assert_array_equal(rest.losses, whole.losses)
    again = run(optimizer=optimizer, resume=rest.state)  # nothing is left to do
    np.testing.assert_array_equal(again.variables, whole.variables)
    np.testing.assert_array_equal(again.losses, whole.losses)


def test_the_state_of_another_run_is_refused():
    state = run(steps=3).state
    for other in (state[:-2] + state[-1:], [jnp.zeros(3), *state[1:]], []):
        with pytest.raises(ValueError, match="resume: this state belongs to a run of another kind or size"):
            run(resume=other)


def test_it_stops_when_the_loss_stops_falling():
    """This loss falls for a while, then stays."""
    loss = lambda x, key: jnp.maximum(x, -50.0)
    run = lambda **options: jaxviz.minimize(loss, jnp.zeros(()), KEY, optimizer=optax.sgd(1.0), steps=400, **options)
    found = run(tolerance=0.0)
    assert found.finished
    assert 50 + 32 <= len(found.losses) <= 50 + 32 + 16
    assert len(run().losses) == 400
    assert len(run(tolerance=0.5).losses) == 72  # from -39, 32 steps ago, to -50 it fell by less than a half


def test_when_it_stops_does_not_depend_on_looks_and_stops():
    """This loss stays until step 36, then falls."""
    loss = lambda x, key: jnp.where(x > -36, 0.0, x)
    run = lambda **options: jaxviz.minimize(
        loss, jnp.zeros(()), KEY, optimizer=optax.chain(_onwards, optax.sgd(1.0)), tolerance=0.0, **options
    )
    expected = run(steps=100, every=8).losses
    np.testing.assert_array_equal(run(steps=100, every=35).losses, expected)
    np.testing.assert_array_equal(run(steps=100, resume=run(steps=35).state).losses, expected)


_onwards = optax.GradientTransformation(
    lambda params: (), lambda updates, state, params: (jnp.ones_like(updates), state)
)


def test_going_on_under_jit():
    state = run(steps=5).state
    under_jit = jax.jit(lambda state: run(steps=9, resume=state).variables)(state)
    np.testing.assert_allclose(under_jit, run(steps=9).variables, rtol=1e-6)


@pytest.mark.slow
def test_an_optimizer_that_evaluates_the_loss_itself(x64):
    """L-BFGS with a line search finds the minimum of Rosenbrock's function."""
    loss = lambda x, key: (1 - x[0]) ** 2 + 100 * (x[1] - x[0] ** 2) ** 2
    found = jaxviz.minimize(loss, jnp.array([-1.2, 1.0], jnp.float64), KEY, steps=60, optimizer=optax.lbfgs())
    np.testing.assert_allclose(found.variables, 1.0, atol=1e-6)


def test_every_how_many_steps_is_looked():
    seen = []
    run(every=10, callback=lambda now: seen.append(len(now.losses)))
    assert seen == [10, 20, 21]
    with pytest.raises(ValueError, match="every: expected 1 step or more, got 0"):
        run(every=0)


# Several images with a loss each


def test_losses_of_several_images_are_added_up():
    targets = jnp.arange(6.0).reshape(3, 2)
    of_each = lambda x, key: jnp.sum((x - targets) ** 2, 1)
    together = lambda x, key: jnp.sum(of_each(x, key))
    run = {"steps": 11, "optimizer": optax.adam(0.1)}
    found, expected = (jaxviz.minimize(loss, jnp.zeros((3, 2)), KEY, **run) for loss in (of_each, together))
    assert found.losses.shape == (11,)
    np.testing.assert_allclose(found.losses, expected.losses, rtol=1e-6)
    np.testing.assert_allclose(found.variables, expected.variables, rtol=1e-6)


def test_an_image_whose_loss_is_not_finite_stays_at_the_last_good_one():
    of_each = lambda x, key: jnp.sum(jnp.where(x > 0.5, jnp.nan, -x), 1)
    with pytest.raises(_minimize.DivergedError, match="the loss is nan at step 5") as error:
        jaxviz.minimize(of_each, jnp.array([[0.0], [-9.0]]), KEY, steps=20, optimizer=optax.sgd(0.12))
    found = error.value.found
    assert found.losses.shape == (5,)
    assert np.isfinite(found.losses).all()
    np.testing.assert_allclose(found.variables[0], 0.6, rtol=1e-6)
    assert np.isfinite(found.variables).all()


@pytest.mark.slow
def test_devices_that_share_images_do_not_wait_for_each_other():
    """In the compiled loop of an ascent there is no word between devices; after it there is."""
    print_collectives = r"""
        import re
        import jax, jax.numpy as jnp
        from nets import small_net
        import jaxviz
        from jaxviz.synthesis import _minimize

        keys = jax.random.split(jax.random.key(0), 3)
        params = {"w1": jax.random.normal(keys[0], (3, 3, 3, 8)), "b1": jnp.zeros(8)}
        params |= {"w2": jax.random.normal(keys[1], (3, 3, 8, 6)), "w3": jax.random.normal(keys[2], (6, 5))}
        seen = []
        original = _minimize._chunk_in_place

        def watched(*args):
            seen.append(original.lower(*args).compile().as_text())
            return original(*args)

        _minimize._chunk_in_place = watched
        score = jaxviz.channel(small_net, "conv_0", jnp.arange(8))
        options = {"size": 32, "steps": 8, "penalties": [(0.1, jaxviz.total_variation)]}
        words = "all-gather|all-reduce|all-to-all|collective-permute|reduce-scatter"
        for basis in (jaxviz.pixels, jaxviz.fourier, jaxviz.maco, jaxviz.natural):
            jaxviz.ascend(score, params, jax.random.key(1), basis=basis, **options)
            text = seen.pop()
            assert "num_partitions=8" in text
            with_words = [part for part in re.split(r"\n(?=\S)", text) if re.search(rf"= \S+ ({words})", part)]
            print(*[part.split()[0] for part in with_words])
    """
    assert on_eight_devices(print_collectives).split() == ["ENTRY"] * 4
