"""Texture and style on small networks, where the best image is known; on VGG see tests/parity and experiments."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.ad_checkpoint import checkpoint_name
from nets import convolve

import jaxviz
from jaxviz.scores._likeness import gram, proportions_of, relative_error
from jaxviz.synthesis._colors import color_matched
from jaxviz.synthesis._painting import STYLE_LAYERS, STYLE_WEIGHT
from jaxviz.synthesis._penalties import total_variation

KEY = jax.random.key(2)


def drawn():
    return {
        "w1": 0.5 * jax.random.normal(jax.random.key(0), (3, 3, 3, 6)),
        "w2": 0.3 * jax.random.normal(jax.random.key(1), (3, 3, 6, 8)),
    }


PARAMS = drawn()
LAYERS = {"content_layers": ["relu_1"], "style_layers": ["relu_0", "relu_1"]}


def net(params, images):
    """Return the maps of two layers, the second at half the size."""
    x = jax.nn.relu(convolve(images, params["w1"]))
    return jax.nn.relu(convolve(x, params["w2"], stride=2))


def picture(seed, height=16, width=20):
    noise = jax.random.uniform(jax.random.key(seed), (1, height, width, 3))
    return jaxviz.blur(noise, 1.0)[0]


CONTENT, STYLE, OTHER = picture(3), picture(4, 24, 18) ** 3, 1 - picture(5, 12, 12) ** 2
stylize = functools.partial(jaxviz.stylize, net, PARAMS, KEY, **LAYERS)
texture = functools.partial(jaxviz.texture, net, PARAMS, KEY, layers=LAYERS["style_layers"])


def values_of(images, params=PARAMS):
    return jaxviz.capture(net, ["relu_0", "relu_1"])(params, images)[1]


def style_error(images, style):
    found, wanted = values_of(images), values_of(style[None])
    return float(sum(relative_error(gram(found[name]), gram(wanted[name]))[0] for name in found) / 2)


def content_error(images, content=CONTENT):
    return float(relative_error(values_of(images)["relu_1"], values_of(content[None])["relu_1"])[0])


def scaled_style(size=1.0):
    """Return the style as it is compared: its longer side that of the content, times `size`."""
    height, width = STYLE.shape[:2]
    scale = size * max(CONTENT.shape[:2]) / max(height, width)
    return jnp.clip(jaxviz.resize(STYLE, (round(height * scale), round(width * scale))), 0, 1)


@pytest.mark.slow
def test_the_loss_is_the_documented_one():
    found = stylize(CONTENT, STYLE, content_weight=3.0, style_weights=7.0, smoothness=0.5, start=OTHER_START, steps=1)
    expected = 3 * content_error(OTHER_START[None]) + 7 * style_error(OTHER_START[None], scaled_style())
    expected += 0.5 * float(total_variation(OTHER_START[None])[0])
    np.testing.assert_allclose(found.losses[0], expected, rtol=1e-4)


OTHER_START = picture(9)


@pytest.mark.slow
def test_both_errors_fall_and_the_weight_decides_between_them():
    start = {"content": content_error(OTHER_START[None]), "style": style_error(OTHER_START[None], scaled_style())}
    run = functools.partial(stylize, CONTENT, STYLE, start=OTHER_START, steps=60)
    like_content, like_style = (run(style_weights=w).images for w in (1e-4, 100.0))
    assert content_error(like_content) < 0.2 * start["content"]
    assert style_error(like_style, scaled_style()) < 0.1 * start["style"]
    assert content_error(like_content) < content_error(like_style)
    assert style_error(like_style, scaled_style()) < style_error(like_content, scaled_style())


@pytest.mark.slow
def test_a_batch_is_painted_image_by_image():
    """Each with the style that is for all, or its own; a texture likewise."""
    contents, styles = jnp.stack([CONTENT, picture(6)]), jnp.stack([STYLE, STYLE[::-1] ** 2])
    options = {"steps": 4, "masks": [jnp.zeros(CONTENT.shape[:2]).at[:, :10].set(1.0)], "colors": "match"}
    for style, of_each in ((STYLE, [STYLE, STYLE]), (styles, styles)):
        together = stylize(contents, style, **options)
        alone = [stylize(content, own, **options) for content, own in zip(contents, of_each, strict=True)]
        np.testing.assert_allclose(together.images, jnp.concatenate([one.images for one in alone]), atol=1e-4)
        np.testing.assert_allclose(together.losses, sum(one.losses for one in alone), rtol=1e-4)
    made = texture(styles, steps=4)
    assert made.images.shape == styles.shape
    np.testing.assert_allclose(made.images[0], texture(STYLE, steps=4).images[0], atol=1e-4)


@pytest.mark.slow
def test_a_style_of_no_weight_leaves_the_content():
    found = stylize(CONTENT, STYLE, style_weights=0.0, steps=5)
    np.testing.assert_allclose(found.images[0], CONTENT, atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("size", [None, 24, (10, 30)])
def test_a_texture_of_any_size(size):
    found = texture(STYLE, size=size, steps=80, smoothness=0.0)
    height, width = STYLE.shape[:2] if size is None else np.broadcast_to(size, 2)
    assert found.images.shape == (1, height, width, 3)
    assert found.losses[-1] < 0.05 * found.losses[0]
    np.testing.assert_allclose(style_error(found.images, STYLE), float(found.losses[-1]), rtol=0.5, atol=2e-3)


@pytest.mark.slow
def test_a_texture_of_a_gray_sample_starts_gray():
    """A color that the sample does not have would stay: no layer has much to say against the finest noise."""
    gray = jnp.broadcast_to(STYLE.mean(-1, keepdims=True), STYLE.shape)
    start = texture(gray, steps=1, optimizer=optax.sgd(0.0)).images[0]
    assert start.std() > 0.5 * gray.std()
    np.testing.assert_allclose(start, jnp.broadcast_to(start[..., :1], start.shape), atol=1e-3)
    colored = texture(STYLE, steps=1, size=64, optimizer=optax.sgd(0.0)).images[0].reshape(-1, 3)
    wanted = STYLE.reshape(-1, 3)
    np.testing.assert_allclose(jnp.corrcoef(colored.T), jnp.corrcoef(wanted.T), atol=0.15)


def test_a_texture_starts_from_noise_of_the_samples_spectrum():
    """Stripes give noise that is smooth along them and not across; a flat sample gives no noise."""
    stripes = jnp.broadcast_to((jnp.arange(32.0) // 2 % 2)[:, None, None] * 0.5 + 0.25, (32, 24, 3))
    start = functools.partial(texture, steps=1, optimizer=optax.sgd(0.0))
    image = start(stripes, size=(20, 40)).images[0]
    along, across = (jnp.abs(jnp.diff(image, axis=axis)).mean() for axis in (1, 0))
    assert image.shape == (20, 40, 3)
    assert across > 4 * along
    np.testing.assert_allclose(image.mean(), 0.5, atol=0.1)
    np.testing.assert_allclose(start(jnp.full((8, 8, 3), 0.3)).images, 0.3, atol=1e-6)


@pytest.mark.parametrize(("names", "weight"), [(tuple(STYLE_LAYERS), 20.0), (STYLE_LAYERS, STYLE_WEIGHT)])
def test_names_of_layers_weigh_them_equally_and_the_default_does_not(names, weight):
    """Whatever the style weighs by default."""
    run = functools.partial(jaxviz.stylize, five, PARAMS, KEY, CONTENT, STYLE, content_layers=["relu1_1"], steps=1)
    expected = run(style_layers=dict(zip(names, proportions_of("", names).values(), strict=True)), style_weights=weight)
    np.testing.assert_allclose(run(style_layers=names).losses, expected.losses, rtol=1e-5)


def five(params, images):
    """Return five layers of the default's names."""
    for block in range(1, 6):
        images = checkpoint_name(jax.nn.relu(convolve(images, params["w1"]))[..., :3], f"relu{block}_1")
    return images


@pytest.mark.slow
def test_two_styles_are_mixed_by_their_weights():
    """Each share brings its own Gram matrices nearer."""
    errors = []
    for share in (0.0, 0.5, 1.0):
        found = stylize(CONTENT, [STYLE, OTHER], style_weights=[50 * share, 50 * (1 - share)], steps=40)
        errors.append(style_error(found.images, scaled_style()))
    assert errors[0] > errors[1] > errors[2]


@pytest.mark.slow
def test_a_mask_keeps_a_style_where_it_belongs():
    left = jnp.zeros(CONTENT.shape[:2]).at[:, :10].set(1.0)
    red, blue = (jnp.ones((12, 12, 3)) * jnp.array(color)[None, None] for color in ([0.9, 0.1, 0.1], [0.1, 0.1, 0.9]))
    found = stylize(CONTENT, [red, blue], masks=[left, 1 - left], style_weights=200.0, steps=80).images[0]
    difference = found[..., 0] - found[..., 2]
    assert difference[:, :8].mean() > 0.2
    assert difference[:, 12:].mean() < -0.2


@pytest.mark.slow
def test_a_style_mask_says_which_part_of_a_style_counts():
    style = jnp.concatenate([jnp.ones((12, 12, 3)) * jnp.array([[[0.9, 0.1, 0.1]]]), jnp.zeros((12, 12, 3))], axis=1)
    part = jnp.zeros((12, 24)).at[:, 2:10].set(1.0)
    whole = stylize(CONTENT, style, style_weights=200.0, steps=60).images
    found = stylize(CONTENT, style, style_masks=[part], style_weights=200.0, steps=60).images
    redness = [float((x[..., 0] - x[..., 2]).mean()) for x in (whole, found)]
    assert redness[1] > redness[0] + 0.1


@pytest.mark.slow
def test_luminance_keeps_the_colors_of_the_content():
    found = stylize(CONTENT, STYLE, colors="luminance", style_weights=50.0, steps=30).images[0]
    inside = (found > 0.02).all(-1) & (found < 0.98).all(-1)
    moved = (found - CONTENT)[inside]
    np.testing.assert_allclose(moved - moved.mean(-1, keepdims=True), 0, atol=1e-5)  # every color by the same
    assert jnp.abs(moved).max() > 0.05


def test_matched_colors_have_the_contents_moments(x64):
    style, content = (jnp.asarray(x, jnp.float64)[None] * 0.2 + 0.4 for x in (STYLE, CONTENT))
    found = color_matched(style, content).reshape(-1, 3)
    wanted = content.reshape(-1, 3)
    np.testing.assert_allclose(found.mean(0), wanted.mean(0), atol=1e-6)
    np.testing.assert_allclose(np.cov(found, rowvar=False), np.cov(wanted, rowvar=False), atol=2e-5)


@pytest.mark.parametrize("start", ["content", "noise", "style"])
def test_starts(start):
    found = stylize(CONTENT, STYLE, start=start, style_weights=0.0, content_weight=0.0, steps=1).images[0]
    expected = {"content": CONTENT, "style": jnp.clip(jaxviz.resize(STYLE, CONTENT.shape[:2]), 0, 1)}
    if start in expected:
        np.testing.assert_allclose(found, expected[start], atol=1e-6)
    else:
        assert jnp.abs(jnp.corrcoef(found.ravel(), CONTENT.ravel())[0, 1]) < 0.2


@pytest.mark.parametrize("optimizer", [None, "adam", optax.sgd(1e-3)], ids=["None", "adam", "sgd"])
def test_optimizers(optimizer):
    found = stylize(CONTENT, STYLE, optimizer=optimizer, steps=30)
    assert found.losses[-1] < 0.7 * found.losses[0]


def test_lbfgs_gets_further_than_adam():
    """The reason why it is the default."""
    lbfgs, adam = (stylize(CONTENT, STYLE, optimizer=name, steps=60).losses[-1] for name in ("lbfgs", "adam"))
    assert lbfgs < adam


@pytest.mark.parametrize("seeds", [(3, 4), (23, 43), (35, 75)])
def test_lbfgs_makes_no_leap_uphill(seeds):
    """Along some steps there is hardly any curvature; without care, the next ones made these losses 2 to 79."""
    with jax.enable_x64(False):  # where the numbers drawn are others
        content, style = picture(seeds[0]), picture(seeds[1], 24, 18) ** 3
        losses = jaxviz.stylize(net, drawn(), KEY, content, style, **LAYERS, steps=104).losses
    assert (losses[9:] < 1.05 * losses[8:-1]).all()


def test_none_is_lbfgs():
    run = functools.partial(stylize, CONTENT, STYLE, steps=9)
    for same in ("lbfgs", jaxviz.lbfgs(longest=0.25)):
        np.testing.assert_array_equal(run(optimizer=same).images, run().images)


@pytest.mark.slow
def test_coarse_to_fine():
    seen = []
    found = stylize(CONTENT, STYLE, octaves=2, steps=12, every=12, callback=seen.append)
    assert [now.images.shape[1:3] for now in seen] == [(8, 10), (16, 20)]
    assert found.losses.shape == (24,)
    single = stylize(CONTENT, STYLE, steps=1)
    assert found.losses[12] < single.losses[0]  # the coarse image is a better start than the content


@pytest.mark.slow
@pytest.mark.parametrize("at", [5, 12, 17])
def test_a_run_that_is_stopped_and_resumed_equals_one_that_is_not(at):
    run = functools.partial(stylize, CONTENT, STYLE, octaves=2, steps=12, colors="luminance")
    whole = run()
    half = run(every=1, callback=lambda now: len(now.losses) == at)
    assert len(half.losses) == at
    rest = run(resume=[np.array(x) for x in half.state])
    np.testing.assert_array_equal(rest.images, whole.images)
    np.testing.assert_array_equal(rest.losses, whole.losses)


@pytest.mark.slow
def test_other_weights_compile_nothing(caplog):
    def compiled(**options):
        caplog.clear()
        with jax.log_compiles():
            stylize(CONTENT, STYLE, steps=2, **options)
        return [message for message in caplog.messages if "XLA compilation of jit(_take_steps)" in message]

    stylize(CONTENT, STYLE, steps=2)
    assert compiled(content_weight=3.0, style_weights=5.0, smoothness=0.1) == []
    assert compiled(style_layers=["relu_0"]) != []  # counting works


@pytest.mark.usefixtures("users_view")
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"style_layers": []}, r"style_layers: expected names of layers, or a weight for each, got \[\]"),
        ({"content_layers": ["relu_9"]}, "no layer 'relu_9'.*It has: conv_0, relu_0, conv_1, relu_1"),
        ({"style_layers": {"relu_0": -1.0}}, "style_layers: expected weights of at least 0"),
        ({"style_weights": -1.0}, "expected a number of at least 0, got -1"),
        ({"style_weights": float("nan")}, "expected a number of at least 0, got nan"),
        ({"content_weight": -2.0}, "the weight of content_layers: expected a number of at least 0, got -2"),
        ({"style_weights": [1.0, 2.0]}, "style_weights: expected one, or one for each of 1 styles, got 2"),
        ({"styles": []}, "styles: expected an image or several, got none"),
        ({"styles": jnp.ones((4, 4))}, r"styles: expected an image \(h, w, c\), got shape"),
        (
            {"content": jnp.ones((1, 1, 8, 8, 3))},
            r"content: expected an image \(h, w, c\), got shape \(1, 1, 8, 8, 3\)",
        ),
        ({"styles": jnp.ones((2, 4, 4, 3))}, "styles: expected one, or one for each of 1 contents, got 2"),
        ({"content": CONTENT.at[0, 0].set(jnp.nan)}, "content: images: expected finite numbers, got 3"),
        ({"masks": [jnp.ones((4, 4))]}, r"masks: expected the size of its image, \(16, 20\), got shape \(4, 4\)"),
        ({"masks": [jnp.zeros((16, 20))]}, "masks: .* got a mask that matches nothing"),
        ({"masks": []}, "masks: expected one for each of 1 styles, got 0"),
        ({"start": jnp.ones((4, 4, 3))}, r"start: expected the content's size, \(16, 20, 3\), got \(4, 4, 3\)"),
        ({"start": "nothing"}, "start: expected 'content', 'noise', 'style' or an image, got 'nothing'"),
        ({"colors": "sepia"}, "colors: expected 'style', 'luminance' or 'match', got 'sepia'"),
        ({"octaves": 0}, "expected 1 octave or more"),
        ({"optimizer": "newton"}, "optimizer: expected 'lbfgs', 'adam' or an optax transformation, got 'newton'"),
        ({"steps": 0}, "steps: expected 1 step or more, got 0"),
    ],
)
def test_errors_come_before_any_work(change, message):
    images = {"content": CONTENT, "styles": STYLE} | change
    watched = []
    with pytest.raises(ValueError, match=message):
        stylize(images.pop("content"), images.pop("styles"), **images, callback=watched.append)
    assert watched == []


@pytest.mark.usefixtures("users_view")
def test_a_layer_that_is_no_map():
    flat = lambda params, images: jax.nn.relu(images.mean((1, 2)) @ params)
    with pytest.raises(ValueError, match=r"layers: 'relu_0' has shape \(1, 3\), no image map \(n, h, w, channels\)"):
        jaxviz.texture(flat, jnp.eye(3), KEY, STYLE, layers=["relu_0"])


def test_a_loss_that_is_not_finite_keeps_the_last_good_image():
    broken = optax.sgd(lambda step: jnp.where(step < 12, 1e-3, jnp.nan))
    with pytest.raises(jaxviz.DivergedError, match=r"not finite at step 12") as raised:
        stylize(CONTENT, STYLE, optimizer=broken, steps=20)
    found = raised.value.found
    assert bool(jnp.isfinite(found.images).all())
    assert len(found.losses) < 20


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(6))
def test_lbfgs_within_bounds_does_not_climb(seed):
    """A network of colors alone and a style darker than the photograph: many pixels end at 0."""
    rng = np.random.default_rng(seed)
    params, photo, style = (
        jnp.asarray(x, jnp.float32)
        for x in (rng.normal(size=(3, 6)), rng.uniform(size=(8, 8, 3)), rng.uniform(size=(6, 6, 3)))
    )
    layers = {"content_layers": ["relu_0"], "style_layers": ["relu_0"]}
    run = functools.partial(jaxviz.stylize, colors_of, params, KEY, photo, style**3, **layers)
    assert run(steps=104).losses[-1] <= 1.1 * run(steps=400, optimizer="adam").losses[-1]


def colors_of(params, images):
    return jax.nn.relu(images @ params)


def test_an_update_that_is_not_finite_is_told():
    with pytest.raises(jaxviz.DivergedError, match="at step 0"):
        stylize(CONTENT, STYLE, optimizer=optax.sgd(np.inf), steps=3)


@pytest.mark.parametrize("optimizer", ["lbfgs", "adam", optax.sgd(1e30)], ids=["lbfgs", "adam", "sgd"])
def test_the_loss_is_that_of_an_image_in_range_at_each_step(optimizer):
    """Not that of what is clipped at the end, which is another image: of one that is shown, the loss is known."""
    options = {"optimizer": optimizer, "every": 4} | ({"learning_rate": 0.5} if optimizer == "adam" else {})
    shown = []
    found = stylize(CONTENT, STYLE, steps=12, callback=lambda found: shown.append(found.images), **options)
    for i, image in enumerate(shown[:-1], 1):
        again = stylize(CONTENT, STYLE, start=image[0], steps=1, **options)
        np.testing.assert_allclose(again.losses[0], found.losses[4 * i], rtol=1e-5)
    assert bool((jnp.stack(shown) == 0).any() | (jnp.stack(shown) == 1).any())
