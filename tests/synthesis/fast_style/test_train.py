"""Training of the style net: its loss, its batches, going on bit for bit, styles that are added, several devices."""

import functools
import json
import os
import shutil
import signal
import subprocess
import sys
import textwrap
import time

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from nets import convolve
from processes import PATHS, on_eight_devices

import jaxviz
from jaxviz.data._source import open_source
from jaxviz.image._checks import ImageError
from jaxviz.synthesis.fast_style import _photographs, _steps

KEY = jax.random.key(5)
PARAMS = {"w": 0.5 * jax.random.normal(jax.random.key(0), (3, 3, 3, 6))}
PHOTOS = np.asarray(jaxviz.blur(jax.random.uniform(jax.random.key(1), (6, 20, 20, 3)), 1.0))
STYLES = [jax.random.uniform(jax.random.key(i), (12, 14, 3)) for i in (2, 3, 4)]
OLD = jaxviz.init_style_net(KEY, width=2, blocks=0, styles=2)
SMALL = {
    "content_layers": ["relu_0"], "style_layers": ["relu_0"], "style_weight": 3.0, "width": 2, "blocks": 0, "size": 16,
    "batch_size": 2, "steps": 11, "every": 4, "checkpoint_every": 4,
}  # fmt: skip


def net(params, images):
    return jax.nn.relu(convolve(images, params["w"]))


def train(styles=STYLES[:2], **options):
    return jaxviz.train_style_net(net, PARAMS, KEY, options.pop("source", PHOTOS), styles, **SMALL | options)


@pytest.fixture(scope="module")
def whole():
    return train()


def same(found, other):
    np.testing.assert_array_equal(found.losses, other.losses)
    for x, y in zip(jax.tree.leaves(found.params), jax.tree.leaves(other.params), strict=True):
        np.testing.assert_array_equal(x, y)


@pytest.mark.slow
def test_the_loss_falls():
    found = train(steps=80, learning_rate=0.01, smoothness=0.5)
    assert found.finished
    assert found.losses[-10:].sum(1).mean() < 0.5 * found.losses[:4].sum(1).mean()


@pytest.mark.slow
def test_the_loss_is_the_one_that_stylize_minimizes(whole):
    """The first step's losses, from what `stylize` compares the first batch's images with."""
    crops = jnp.asarray(next(_photographs.crops_of(open_source(PHOTOS), KEY, 0, 11, 16, 2))) / 255
    start = jaxviz.init_style_net(KEY, width=2, blocks=0, styles=2)
    expected = []
    for i in range(2):
        made = jaxviz.style_net(start, crops[i : i + 1], style=i)
        options = {"content_layers": ["relu_0"], "style_layers": ["relu_0"], "style_weights": 3.0, "smoothness": 8.0}
        # One step of gradient descent of length 0 tells the loss.
        found = jaxviz.stylize(
            net,
            PARAMS,
            KEY,
            crops[i],
            STYLES[i],
            start=made[0],
            steps=1,
            optimizer="adam",
            learning_rate=0.0,
            **options,
        )
        expected.append(float(found.losses[0]))
    assert whole.losses[0].sum() == pytest.approx(np.mean(expected), rel=1e-4)


def test_batches_depend_on_the_key_and_the_step_alone():
    crops = functools.partial(_photographs.crops_of, open_source(PHOTOS), steps=9, size=16, batch_size=2)
    every = list(crops(KEY, 0))
    assert [x.shape for x in every] == [(2, 16, 16, 3)] * 9
    for x, y in zip(every[5:], crops(KEY, 5), strict=True):
        np.testing.assert_array_equal(x, y)
    assert any(np.any(x != y) for x, y in zip(every, crops(jax.random.key(6), 0), strict=True))
    # Each round of three batches has each photograph once, somewhere cropped and perhaps mirrored.
    for first in (0, 3, 6):
        seen = [_photo_of(crop) for batch in every[first : first + 3] for crop in batch]
        assert sorted(seen) == list(range(6))


@pytest.mark.parametrize("room", [6, 2, 0])
def test_photographs_that_there_is_memory_for_are_read_once(room, monkeypatch):
    crops = functools.partial(_photographs.crops_of, key=KEY, first=0, steps=9, size=16, batch_size=2)
    expected, reads = list(crops(open_source(PHOTOS))), []
    source = open_source(PHOTOS)
    counted = source._replace(read=lambda i: (reads.append(i), source.read(i))[1], labeled=None)
    monkeypatch.setattr(_photographs, "KEPT", room * 3 * 20**2)
    for x, y in zip(crops(counted), expected, strict=True):
        np.testing.assert_array_equal(x, y)
    assert len(reads) == room + 3 * (6 - room)


@pytest.mark.slow
def test_what_was_taken_before_a_source_broke_is_kept(tmp_path):
    """Eight steps are read ahead, which must not cost those that are done: here a disk fails after 16 photographs."""
    photos, reads = [*PHOTOS] * 3, []

    def read(i):
        reads.append(i)
        if len(reads) > 16:
            raise ImageError("no such disk")
        return photos[i]

    source = open_source(photos)._replace(read=read, labeled=None)
    with pytest.raises(ImageError, match=r"18 that cannot be read, such as .*no such disk"):
        train(source=source, store=tmp_path, checkpoint_every=8)
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["8"]


def _photo_of(crop):
    for i, photo in enumerate(PHOTOS):
        for whole in (photo, photo[:, ::-1]):
            windows = np.lib.stride_tricks.sliding_window_view(whole, (16, 16, 3)).reshape(-1, 16, 16, 3)
            if (np.abs(255 * windows - crop).max((1, 2, 3)) < 0.51).any():
                return i
    raise AssertionError("no crop of any photograph")


@pytest.mark.slow
def test_stopped_by_the_callback_and_resumed(whole, tmp_path):
    looks = []

    def stop(found):
        looks.append(len(found.losses))
        return len(found.losses) == 4

    part = train(store=tmp_path, callback=stop)
    assert not part.finished
    assert looks == [4]
    same(train(store=tmp_path, callback=stop), whole)
    assert looks == [4, 8, 11]
    same(train(store=tmp_path, callback=stop), whole)  # nothing is left to do
    assert looks == [4, 8, 11]
    more = train(store=tmp_path, steps=13)
    np.testing.assert_array_equal(more.losses[:11], whole.losses)
    assert len(more.losses) == 13


class Slow:
    """A source in which there is time to be killed."""

    def __len__(self):
        return len(PHOTOS)

    def __getitem__(self, i):
        time.sleep(0.05)
        return PHOTOS[i]


SCRIPT = """
    import sys
    from synthesis.fast_style import test_train
    test_train.train(source=test_train.Slow(), store=sys.argv[1], steps=100000, checkpoint_every=1)
"""


@pytest.mark.slow
def test_kill_9_and_the_same_command_again(tmp_path):
    steps, environment = [], {**os.environ, "PYTHONPATH": PATHS}
    checkpoints = tmp_path / "checkpoints"

    def last():
        return max((int(path.name) for path in checkpoints.glob("*") if path.name.isdecimal()), default=0)

    for _ in range(2):
        before, deadline = last(), time.time() + 240
        run = subprocess.Popen([sys.executable, "-c", textwrap.dedent(SCRIPT), str(tmp_path)], env=environment)
        while last() < before + 2 and run.poll() is None and time.time() < deadline:
            time.sleep(0.02)
        run.send_signal(signal.SIGKILL)
        run.wait()
        steps.append(last())
    assert 2 <= steps[0] < steps[1]
    total = steps[1] + 3
    same(train(source=Slow(), store=tmp_path, steps=total), train(steps=total))


@pytest.mark.slow
def test_two_trainings_do_not_share_a_folder(tmp_path):
    """Not even for a moment: the second one neither reads nor writes, and the first goes on undisturbed."""
    second = []

    def start_another(found):
        with pytest.raises(ValueError, match="store: another run is writing to this folder; wait for it, or use anot"):
            train(store=tmp_path / "store", steps=1)
        second.append(sorted(path.name for path in (tmp_path / "store").iterdir()))

    made = train(store=tmp_path / "store", steps=2, callback=start_another)
    assert second[0] == ["checkpoints", "settings.json"]
    same(train(store=tmp_path / "store", steps=2), made)  # it is free again


def test_another_training_is_not_gone_on_with(tmp_path):
    train(store=tmp_path, steps=1)
    for options, names in (
        ({"smoothness": 2.0}, "smoothness"),
        ({"styles": STYLES[1:]}, "styles"),
        ({"source": PHOTOS[:5], "learning_rate": 0.1}, "learning_rate, source"),
    ):
        with pytest.raises(ValueError, match=f"holds a training run with another {names}: give the same options"):
            train(store=tmp_path, **options)


def test_a_training_with_another_network_is_not_gone_on_with(tmp_path):
    """A normalization changes no parameter."""
    train(store=tmp_path, steps=1)
    with pytest.raises(ValueError, match="holds a training run with a network that computes something else: choose"):
        jaxviz.train_style_net(lambda p, x: net(p, 2 * x - 1), PARAMS, KEY, PHOTOS, STYLES[:2], **SMALL, store=tmp_path)
    settings = json.loads((tmp_path / "settings.json").read_text())
    (tmp_path / "settings.json").write_text(json.dumps({x: y for x, y in settings.items() if x != "program"}))
    with pytest.raises(ValueError, match=r"training run from an earlier version of jaxviz, .*: choose another folder"):
        train(store=tmp_path, steps=1)
    (tmp_path / "settings.json").unlink()
    with pytest.raises(ValueError, match=r"this store is damaged: settings.json, which says what checkpoints are of"):
        train(store=tmp_path, steps=1)


# Orbax leaves callbacks of its closed event loop behind where reading fails.
@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_damaged_checkpoint_is_told(tmp_path):
    """Zarr reads a chunk that is missing as zeros, and has no checksum for one in which a bit was flipped."""
    train(store=tmp_path, steps=2, checkpoint_every=1)
    chunks = sorted(path for path in (tmp_path / "checkpoints" / "2").rglob("state.*/0*") if path.is_file())
    good, damaged = (
        chunks[-1].read_bytes(),
        "checkpoints/2: this checkpoint is damaged: delete the folder, and",
    )
    chunks[-1].unlink()
    with pytest.raises(ValueError, match=damaged):
        train(store=tmp_path, steps=3)
    for place in range(0, len(good), max(1, len(good) // 4)):
        chunks[-1].write_bytes(good[:place] + bytes([good[place] ^ 1]) + good[place + 1 :])
        with pytest.raises(ValueError, match=damaged):
            train(store=tmp_path, steps=3)
    shutil.rmtree(tmp_path / "checkpoints" / "2")
    same(train(store=tmp_path, steps=3), train(steps=3))


@pytest.mark.slow
def test_a_training_starts_from_a_net(whole):
    again = train(start=whole.params, steps=1)
    np.testing.assert_array_equal(again.losses, train(start=whole.params, steps=2).losses[:1])
    assert again.losses.sum() < 0.9 * train(steps=1).losses.sum()  # the same photographs and styles
    assert all(bool(jnp.isfinite(x).all()) for x in jax.tree.leaves(whole.params))  # its memory is its own
    with pytest.raises(ValueError, match="start: expected a net with 1 styles, got one with 2"):
        train(STYLES[:1], start=whole.params)
    with pytest.raises(ValueError, match="start, add_to: expected at most one of them"):
        train(start=whole.params, add_to=whole.params)


@pytest.mark.slow
@pytest.mark.parametrize("options", [{"learning_rate": 0.02}, {"optimizer": jaxviz.muon(0.02)}], ids=["adam", "muon"])
def test_an_added_style_trains_its_own_scales_and_offsets(whole, options):
    found = train([STYLES[2]], add_to=whole.params, content_weight=0.0, smoothness=0.0, steps=30, **options)
    assert found.losses[-4:].sum(1).mean() < 0.8 * found.losses[:2].sum(1).mean()
    for name, layer in found.params.items():
        np.testing.assert_array_equal(layer["kernel"], whole.params[name]["kernel"])
        for what in ("scale", "offset"):
            np.testing.assert_array_equal(layer[what][:2], whole.params[name][what])
            assert layer[what].shape[0] == 3
            assert jnp.any(layer[what][2] != whole.params[name][what].mean(0))
    photos = jnp.asarray(PHOTOS[:1])
    before, after = (jaxviz.style_net(params, photos, style=1) for params in (whole.params, found.params))
    np.testing.assert_array_equal(before, after)


@pytest.mark.slow
def test_eight_devices_do_what_one_does():
    script = """
        import jax, numpy as np
        from synthesis.fast_style import test_train
        kept = []
        found = test_train.train(batch_size=8, steps=3, callback=lambda found: kept.append(found.params))
        print(jax.local_device_count(), len(jax.tree.leaves(kept[-1])[0].sharding.device_set))
        print(*found.losses.ravel().tolist())
    """
    devices, losses = on_eight_devices(script).splitlines()[-2:]
    assert devices == "8 8"
    one = train(batch_size=8, steps=3)
    np.testing.assert_allclose([float(x) for x in losses.split()], one.losses.ravel(), rtol=2e-3)


@pytest.mark.slow
def test_muon_goes_on_as_if_undisturbed(tmp_path):
    options = {"blocks": 1, "steps": 60, "smoothness": 0.5, "optimizer": jaxviz.muon(0.01)}
    whole = train(**options)
    assert whole.losses[-8:].sum(1).mean() < 0.6 * whole.losses[:4].sum(1).mean()
    run = functools.partial(train, store=tmp_path, **options)
    assert not run(callback=lambda found: len(found.losses) >= 16).finished
    same(run(), whole)
    with pytest.raises(ValueError, match="another blocks, learning_rate, optimizer, smoothness"):
        train(store=tmp_path)
    for other in (jaxviz.muon(0.02), optax.adam(0.01)):
        with pytest.raises(ValueError, match="another optimizer: give the same options"):
            train(store=tmp_path, **options | {"optimizer": other})
    same(train(store=tmp_path, **options | {"optimizer": jaxviz.muon(0.01)}), whole)  # the same, made anew


@pytest.mark.slow
def test_any_optimizer_with_a_schedule_of_its_own_goes_on_as_if_undisturbed(whole, tmp_path):
    """Adam at the rate that is the default takes the default's steps, but for rounding: it multiplies by the rate."""
    np.testing.assert_allclose(train(optimizer=optax.adam(1e-3)).losses, whole.losses, rtol=1e-5)
    falls = optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(optax.linear_schedule(0.02, 0.0, 11)))
    expected = train(optimizer=falls)
    run = functools.partial(train, optimizer=falls, store=tmp_path)
    assert not run(callback=lambda found: len(found.losses) >= 5, every=5).finished
    same(run(), expected)
    assert np.any(expected.losses[1:] != whole.losses[1:])


@pytest.mark.slow
def test_muon_evens_out_what_the_gradient_of_a_kernel_consists_of():
    params = jaxviz.init_style_net(KEY, width=8, blocks=2, styles=2)
    grads = jax.tree.map(lambda x: jax.random.normal(jax.random.key(x.size), x.shape), params)
    grads = jax.tree.map(lambda x: x * 1e-3 * jnp.geomspace(1, 50, x.shape[-1]), grads)
    rule = jaxviz.muon(1.0)
    updates = rule.update(grads, rule.init(params), params)[0]
    rest = optax.nadamw(1.0, weight_decay=0.0)
    adam = rest.update(grads, rest.init(params), params)[0]
    for name, layer in updates.items():
        for what, update in layer.items():
            if what == "kernel" and update.shape[0] == 3:
                before, after = (
                    jnp.linalg.svd(x.reshape(-1, x.shape[-1]), compute_uv=False) for x in (grads[name][what], update)
                )
                assert before[0] / before[-1] > 30
                assert after[0] / after[-1] < 2.5
                assert jnp.sqrt(jnp.mean(update**2)) == pytest.approx(0.2, rel=0.2)
            else:
                np.testing.assert_allclose(update, adam[name][what], rtol=1e-5)


def test_the_learning_rate_cools_down():
    assert [_steps._falling(done, 0.5) for done in (0.0, 0.5, 0.75, 1.0)] == [1, 1, 0.5, 0]
    assert _steps._falling(0.99, 0.0) == 1


@pytest.mark.parametrize("cooldown", [0.0, 0.5, 1.0])
def test_muons_learning_rate_cools_down_as_adams_does(cooldown):
    params = {"kernel": jnp.ones((3, 3, 2, 4)), "offset": jnp.ones(4)}
    rules = jaxviz.muon(0.1), jaxviz.muon(0.1, steps=10, cooldown=cooldown)
    states = [rule.init(params) for rule in rules]
    for i in range(10):
        moved = [rule.update(params, state, params) for rule, state in zip(rules, states, strict=True)]
        states, (constant, falling) = [state for _, state in moved], [updates for updates, _ in moved]
        for name, update in falling.items():
            np.testing.assert_allclose(update, _steps._falling(i / 10, cooldown) * constant[name], rtol=1e-5, atol=1e-9)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"cooldown": 2.0, "steps": 10}, r"cooldown: expected a finite number in \[0, 1\], got 2.0"),
        ({"cooldown": 0.5}, "cooldown: expected none without the number of steps, got 0.5"),
        ({"cooldown": 0.5, "steps": 0}, "steps: expected 1 or more, got 0"),
        ({"cooldown": 0.5, "steps": 9, "learning_rate": optax.constant_schedule(0.1)}, "none beside a schedule"),
    ],
)
def test_a_cooldown_of_muon_that_cannot_be(options, message):
    with pytest.raises(ValueError, match=message):
        jaxviz.muon(**{"learning_rate": 0.1} | options)


@pytest.mark.slow
def test_bfloat16_is_near(whole):
    found = train(precision="bfloat16", steps=1)
    np.testing.assert_allclose(found.losses[0], whole.losses[0], rtol=0.05)
    assert {x.dtype for x in jax.tree.leaves(found.params)} == {jnp.dtype("float32")}


@pytest.mark.slow
def test_a_network_with_whole_numbers_among_its_parameters():
    turned = lambda params, images: net(params, images)[..., params["order"]]
    params = PARAMS | {"order": jnp.arange(6)[::-1]}
    options = SMALL | {"content_layers": ["relu_0"], "steps": 1}
    found = jaxviz.train_style_net(turned, params, KEY, PHOTOS, STYLES[:2], **options)
    assert np.isfinite(found.losses).all()


@pytest.mark.slow
def test_photographs_that_cannot_be_read(tmp_path):
    for i, photo in enumerate(PHOTOS[:2]):
        jaxviz.save_image(tmp_path / f"{i}.png", photo)
    (tmp_path / "2.png").write_bytes(b"no image")
    assert np.isfinite(train(source=tmp_path, steps=3).losses).all()
    alone = train(source=tmp_path, steps=6, batch_size=1)  # the next one by name is taken
    part = train(source=tmp_path, steps=6, batch_size=1, store=tmp_path / "store", callback=lambda found: True)
    assert len(part.losses) == 4
    same(train(source=tmp_path, steps=6, batch_size=1, store=tmp_path / "store"), alone)
    for i in (0, 1):
        (tmp_path / f"{i}.png").write_bytes(b"no image")
    with pytest.raises(ImageError, match=r"expected photographs, got 3 that cannot be read, such as .*.png: "):
        train(source=tmp_path, steps=3)


def test_folders_of_any_name(tmp_path):
    """Brackets, which Orbax takes for a pattern, and a name that is no UTF-8."""
    photos, store = tmp_path / "photos", tmp_path / "runs [2026]" / "a"
    for i, photo in enumerate(PHOTOS):
        jaxviz.save_image(photos / f"{i}.png", photo)
    os.rename(photos / "5.png", os.fsencode(photos) + b"/caf\xe9.png")
    whole = train(source=photos, steps=5)
    train(source=photos, steps=3, store=store)
    same(train(source=photos, steps=5, store=store), whole)


def test_other_photographs_of_the_same_number_are_another_training(tmp_path):
    train(steps=2, store=tmp_path)
    with pytest.raises(ValueError, match="holds a training run with another source"):
        train(source=1 - PHOTOS, steps=3, store=tmp_path)


@pytest.mark.slow
def test_a_network_of_another_type(x64):
    """Bare JAX does not promote: what the network is given has the type of its parameters."""
    whole = train(steps=2)
    params, *styles = jax.tree.map(lambda x: x.astype(jnp.float64), [PARAMS, *STYLES[:2]])
    found = jaxviz.train_style_net(net, params, KEY, PHOTOS, styles, **SMALL | {"steps": 2})
    np.testing.assert_array_equal(found.losses, whole.losses)


@pytest.mark.usefixtures("users_view")
def test_styles_that_are_none():
    with pytest.raises(ValueError, match=r"styles: expected values in \[0, 1\], got .*divide 0 to 255 by 255"):
        train([255 * style for style in STYLES])
    with pytest.raises(ValueError, match=r"styles: expected a list of images .* got ndarray: list\(styles\) is one"):
        train(np.zeros((2, 12, 14, 3), np.float32))


def test_what_diverges_keeps_the_parameters_before():
    with pytest.raises(jaxviz.DivergedError, match="not finite at step 0; a smaller learning rate may help") as error:
        jaxviz.train_style_net(net, {"w": PARAMS["w"] * 1e30}, KEY, PHOTOS, STYLES[:2], **SMALL)
    start = jaxviz.init_style_net(KEY, width=2, blocks=0, styles=2)
    for x, y in zip(jax.tree.leaves(error.value.found.params), jax.tree.leaves(start), strict=True):
        np.testing.assert_array_equal(x, y)


@pytest.mark.usefixtures("users_view")
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"styles": []}, "styles: expected a list of images"),
        ({"styles": STYLES[0]}, "styles: expected a list of images"),
        ({"styles": [STYLES[0][..., 0]]}, "expected images"),
        ({"steps": 0}, "steps: expected 1 step or more, got 0"),
        ({"width": 3, "start": OLD}, "width: expected None or 2, as start or add_to has, got 3"),
        ({"blocks": 1, "add_to": OLD}, "blocks: expected None or 0, as start or add_to has, got 1"),
        ({"cooldown": 2.0}, r"cooldown: expected a fraction in \[0, 1\], got 2"),
        ({"precision": "float8"}, "precision: expected 'float32' or 'bfloat16', got 'float8'"),
        ({"optimizer": "adam"}, r"expected an optax .* as jaxviz.muon\(1e-2\), or None for Adam, got 'adam'"),
        ({"optimizer": "muon"}, r"expected an optax .* as jaxviz.muon\(1e-2\), or None for Adam, got 'muon'"),
        ({"optimizer": optax.adam}, "optimizer: expected an optax transformation such as"),
        ({"optimizer": jaxviz.muon(0.1), "learning_rate": 0.1}, "learning_rate: expected none beside an optimizer"),
        ({"optimizer": jaxviz.muon(0.1), "cooldown": 0.5}, "cooldown: expected none beside an optimizer"),
        ({"every": 0}, "every: expected 1 step or more, got 0"),
        ({"checkpoint_every": 0}, "checkpoint_every: expected 1 or more, got 0"),
        ({"content_layers": ["relu_9"]}, "no layer 'relu_9'"),
        ({"style_weight": -1.0}, "expected a number of at least 0, got -1"),
        ({"source": []}, "expected at least one image"),
        ({"style_size": [1.0]}, "style_size: expected one number, or one for each of 2 styles, got 1"),
        ({"style_size": [1.0, 0.0]}, "style_size: expected a "),
        ({"steadiness": -1.0}, "steadiness: expected a finite number of at least 0, got -1"),
    ],
)
def test_errors(options, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        train(**options, store=tmp_path / "store")
    assert not (tmp_path / "store").exists()


def test_steadiness_is_the_change_of_pixels_that_move():
    """Its part of the first loss, from the crops and what the random key draws, in NumPy but for the net."""
    found = train(steps=1, steadiness=7.0, start=OLD, width=None, blocks=None)
    batch = next(_photographs.crops_of(open_source(PHOTOS), KEY, 0, 1, 16, 2)) / np.float32(255)
    at, noise = jax.random.split(jax.random.fold_in(KEY, 0))
    down, right = np.asarray(jax.random.randint(at, (2,), 0, 4))
    moved = np.roll(batch, (down, right), (1, 2)) + 0.02 * np.asarray(
        jax.random.normal(noise, batch.shape, jnp.float32)
    )
    mix = np.eye(2, dtype=np.float32)
    before, after = (np.asarray(jaxviz.style_net(OLD, x, style=mix)) for x in (batch, moved.clip(0, 1)))
    change = np.square(after - np.roll(before, (down, right), (1, 2)))[:, 4:-4, 4:-4].mean()
    assert found.losses[0, 3] == pytest.approx(7 * change, rel=1e-4)
    assert change > 0


@pytest.mark.slow
def test_steadiness_makes_pixels_keep_their_color():
    options = {"steps": 60, "learning_rate": 0.02}
    one, other = (train(steadiness=weight, **options).params for weight in (0.0, 1000.0))

    def change(params):
        images = np.asarray(PHOTOS[:1], np.float32)
        first, second = (jaxviz.style_net(params, x) for x in (images[:, :-1, :-1], images[:, 1:, 1:]))
        return float(jnp.abs(first[:, 1:, 1:] - second[:, :-1, :-1]).mean())

    assert change(other) < 0.7 * change(one)


def test_each_style_has_a_size():
    """A style that is learned twice as large has the Gram matrices of the enlarged picture."""
    larger = jaxviz.resize(STYLES[1], (24, 28))
    first = train(steps=1, style_size=[1.0, 1.0], styles=[STYLES[0], jnp.clip(larger, 0, 1)])
    other = train(steps=1, style_size=[1.0, 1.75], styles=STYLES[:2])
    third = train(steps=1, style_size=[1.0, 1.75], styles=[STYLES[0], jnp.clip(larger, 0, 1)])
    assert third.losses[0, 1] == pytest.approx(other.losses[0, 1], rel=2e-2)
    assert abs(first.losses[0, 1] / other.losses[0, 1] - 1) > 5e-2
