"""Every public function that takes a network, or a score of one, as a function of the network."""

import jax
import jax.numpy as jnp

import jaxviz

KEY, EYE = jax.random.key(0), jnp.eye(3)
IMAGES = jax.random.uniform(KEY, (1, 16, 16, 3))
LAYER = {"layer": "relu_0"}
RUN = {"steps": 2}
STYLE = {"content_layers": ["relu_0"], "style_layers": ["relu_0"], **RUN}


def head(params, images):
    return jax.nn.relu(images @ params).mean((1, 2))


# Each as a function of a network, with how many shapes of images that sees. A new public function is one row.
CALLS = {
    "saliency": (lambda net: jaxviz.saliency(jaxviz.logit(net, 0), EYE, IMAGES), 1),
    "gradient, ranked first": (lambda net: jaxviz.gradient(jaxviz.logit(net), EYE, IMAGES), 1),
    "gradient of a sum": (
        lambda net: jaxviz.gradient(jaxviz.logit(net) + jaxviz.energy(net, "relu_0"), EYE, IMAGES), 1
    ),
    "input_x_gradient": (lambda net: jaxviz.input_x_gradient(jaxviz.logit(net, 0), EYE, IMAGES), 1),
    "guided_backprop": (lambda net: jaxviz.guided_backprop(jaxviz.logit(net, 0), EYE, IMAGES), 1),
    "deconvnet": (lambda net: jaxviz.deconvnet(jaxviz.logit(net, 0), EYE, IMAGES), 1),
    "grad_cam": (lambda net: jaxviz.grad_cam(jaxviz.logit(net, 0), EYE, IMAGES, **LAYER), 1),
    "guided_grad_cam": (lambda net: jaxviz.guided_grad_cam(jaxviz.logit(net, 0), EYE, IMAGES, **LAYER), 1),
    "smoothgrad": (lambda net: jaxviz.smoothgrad(jaxviz.logit(net, 0), EYE, KEY, IMAGES, samples=2), 1),
    "integrated_gradients": (lambda net: jaxviz.integrated_gradients(jaxviz.logit(net, 0), EYE, IMAGES, steps=2), 1),
    "lrp": (lambda net: jaxviz.lrp(jaxviz.logit(net, 0), EYE, IMAGES), 1),
    "occlusion": (lambda net: jaxviz.occlusion(jaxviz.logit(net, 0), EYE, IMAGES, window=8, stride=8, batch_size=1), 1),
    "rise": (lambda net: jaxviz.rise(jaxviz.logit(net, 0), EYE, KEY, IMAGES, masks=2, batch_size=1), 1),
    "deletion": (
        lambda net: jaxviz.deletion(
            jaxviz.logit(net, 0), EYE, IMAGES, IMAGES[..., 0], step=128, batch_size=1
        ),
        1,
    ),
    "ascend": (lambda net: jaxviz.ascend(jaxviz.channel(net, "relu_0", 0), EYE, KEY, size=16, **RUN), 1),
    "ascend of a plain function": (
        lambda net: jaxviz.ascend(lambda p, x: net(p, x)[:, 0], EYE, KEY, size=16, **RUN), 1
    ),
    "dream": (lambda net: jaxviz.dream(jaxviz.energy(net, "relu_0"), EYE, KEY, IMAGES, octaves=2, **RUN), 4),
    "dream in tiles": (
        lambda net: jaxviz.dream(
            jaxviz.channel(net, "relu_0", 0), EYE, KEY, jnp.tile(IMAGES, (1, 5, 1, 1)), octaves=1, tile=64,
            overlap=0, **RUN
        ),
        3,
    ),
    "dream_zoom": (
        lambda net: list(jaxviz.dream_zoom(jaxviz.logit(net, 0), EYE, KEY, IMAGES, frames=2, octaves=1, **RUN)), 2
    ),
    "activation_grid": (
        lambda net: jaxviz.activation_grid(net, EYE, KEY, IMAGES[0, :2, :2], **LAYER, size=16, **RUN), 2
    ),
    "facets": (
        lambda net: jaxviz.facets(net, EYE, jnp.stack([IMAGES[0], 1 - IMAGES[0]]), **LAYER, count=2, batch_size=1), 1
    ),
    "caricature": (lambda net: jaxviz.caricature(net, EYE, IMAGES, "relu_0"), 1),
    "invert": (lambda net: jaxviz.invert(net, EYE, KEY, IMAGES, **LAYER, **RUN), 1),
    "texture": (lambda net: jaxviz.texture(net, EYE, KEY, IMAGES[0], layers=["relu_0"], **RUN), 1),
    "stylize": (lambda net: jaxviz.stylize(net, EYE, KEY, IMAGES[0], IMAGES[0] ** 2, **STYLE), 1),
    "sweep": (
        lambda net: jaxviz.sweep(
            jaxviz.stylize, "style_weights", [0.0, 1.0], net, EYE, KEY, IMAGES[0], IMAGES[0] ** 2, **STYLE
        ),
        1,
    ),
    "train_style_net": (
        lambda net: jaxviz.train_style_net(
            net, EYE, KEY, IMAGES, [IMAGES[0]], width=2, blocks=1, size=16, batch_size=1, **STYLE
        ),
        1,
    ),
    "fool": (lambda net: jaxviz.fool(net, EYE, IMAGES, target=1, **RUN), 1),
    "sheet": (lambda net: jaxviz.sheet(net, EYE, KEY, **LAYER, size=16, batch_size=1, **RUN), 1),
    "features": (lambda net: jaxviz.features(net, EYE, IMAGES, **LAYER, size=16, batch_size=1), 1),
    "top_patches": (lambda net: jaxviz.top_patches(net, EYE, IMAGES, **LAYER, size=16, k=1, batch_size=1), 1),
    "match_features": (lambda net: jaxviz.match_features(net, EYE, IMAGES, ["relu_0"]), 1),
    "match_grams": (lambda net: jaxviz.match_grams(net, EYE, IMAGES, ["relu_0"]), 1),
    "resemblance": (lambda net: jaxviz.resemblance(net, EYE, IMAGES, **LAYER), 1),
    "receptive_field": (lambda net: jaxviz.receptive_field(net, EYE, IMAGES, "relu_0"), 1),
    "layers": (lambda net: jaxviz.layers(net, EYE, IMAGES), 1),
    "capture": (lambda net: jaxviz.capture(net, "relu_0")(EYE, IMAGES), 1),
    "replace": (lambda net: jaxviz.replace(net, {"relu_0": jnp.square})(EYE, IMAGES), 1),
    "with_relu": (lambda net: jaxviz.with_relu(net, "guided")(EYE, IMAGES), 1),
    "randomize": (lambda net: jaxviz.randomize(net, EYE, KEY, IMAGES, down_to="dense_0"), 1),
}  # fmt: skip
