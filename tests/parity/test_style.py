"""Style and texture against a PyTorch twin: the same terms, the same start, `torch.optim.LBFGS`.

Gradients are compared in float64, where both sides take the same decision at every ReLU and max-pool: 1e-8 of the
largest value, as in `test_captum.py`.

The two L-BFGS are written differently (PyTorch's keeps its first step short by the gradient's L1 norm, ours by its L2
norm), so their paths part; after as many evaluations the losses must be alike: ours at most 1.05 times PyTorch's. The
full size is in `experiments/benchmarks/style.py`.
"""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import skimage.data
from parity.vgg import relu_values, torch_vgg

import jaxviz
from jaxviz.scores._likeness import proportions_of
from jaxviz.synthesis._painting import STYLE_LAYERS, STYLE_WEIGHT, TEXTURE_LAYERS

torch = pytest.importorskip("torch")

pytestmark = pytest.mark.weights

SIZE, EVALUATIONS = 96, 60
CONTENT, STYLE = "relu4_2", ("relu1_1", "relu2_1", "relu3_1", "relu4_1", "relu5_1")
FLOAT64, LOSS = 1e-8, 1.05


@pytest.fixture(scope="module")
def network():
    return jaxviz.load("vgg16_features")


@pytest.fixture(scope="module")
def pictures():
    """Return the content and the style."""
    sources = (skimage.data.chelsea(), skimage.data.coffee())
    return [np.asarray(jaxviz.load_image(source, size=SIZE)) for source in sources]


class Twin:
    """The loss of `stylize` in PyTorch."""

    def __init__(self, params, content, style, dtype, prepare=lambda x: x):
        self.modules = prepare(torch_vgg(params, "relu5_1").to(dtype)).requires_grad_(False)
        self.dtype, self.prepare = dtype, prepare
        self.content = self.values(self.tensor(content))[CONTENT]
        self.grams = {name: self.gram(value) for name, value in self.values(self.tensor(style)).items()}

    def tensor(self, image):
        rows = np.ascontiguousarray(np.asarray(image).transpose(2, 0, 1)[None])
        return self.prepare(torch.tensor(rows, dtype=self.dtype))

    def values(self, images):
        return relu_values(self.modules, images)

    @staticmethod
    def gram(value):
        rows = value.flatten(2)
        return rows @ rows.transpose(1, 2) / rows.shape[2]

    @staticmethod
    def error(value, target):
        return ((value - target) ** 2).sum() / (target**2).sum()

    def terms(self, images):
        values = self.values(images)
        across, down = (images.diff(dim=axis) ** 2 for axis in (3, 2))
        variation = torch.nn.functional.pad(across, (0, 1)) + torch.nn.functional.pad(down, (0, 0, 0, 1))
        return (
            {"content": self.error(values[CONTENT], self.content)}
            | {name: self.error(self.gram(values[name]), self.grams[name]) for name in STYLE}
            | {"smoothness": variation.mean()}
        )


def terms_of(network, content, style, which):
    """Return our loss with one term of weight 1, as a function of images."""
    net, params = network
    if which == "smoothness":
        return lambda images: jnp.sum(jaxviz.total_variation(images))
    match, picture = (jaxviz.match_features, content) if which == "content" else (jaxviz.match_grams, style)
    score = match(net, params, picture[None], [CONTENT if which == "content" else which])
    return lambda images: -jnp.sum(score(params, images))


@pytest.mark.parametrize("which", ["content", *STYLE, "smoothness"])
def test_the_gradient_of_a_term(network, pictures, which, x64):
    net, params = network
    params = jax.tree.map(lambda x: jnp.asarray(x, jnp.float64), params)
    content, style = (jnp.asarray(picture, jnp.float64) for picture in pictures)
    start = np.random.default_rng(0).uniform(0.1, 0.9, content.shape)
    value, gradient = jax.jit(jax.value_and_grad(terms_of((net, params), content, style, which)))(start[None])
    twin = Twin(params, content, style, torch.float64)
    images = twin.tensor(start).requires_grad_()
    loss = twin.terms(images)[which]
    loss.backward()
    expected = images.grad.numpy().transpose(0, 2, 3, 1)
    error = np.abs(np.asarray(gradient) - expected).max() / np.abs(expected).max()
    off = abs(float(value) / float(loss.detach()) - 1)
    print(f"{which}: gradient {error:.1e}, value {off:.1e}")
    assert error <= FLOAT64
    assert off <= FLOAT64


@pytest.mark.parametrize("task", ["style", "texture"])
def test_the_loss_after_as_many_evaluations(network, pictures, task):
    net, params = network
    content, style = pictures
    key = jax.random.key(0)
    if task == "style":
        weights = {"content": 1.0} | {
            name: STYLE_WEIGHT * share for name, share in proportions_of("style_layers", STYLE_LAYERS).items()
        }
        start = content
        found = jaxviz.stylize(net, params, key, content, style, steps=EVALUATIONS)
    else:
        weights = proportions_of("layers", TEXTURE_LAYERS)
        first = jaxviz.texture(net, params, key, style, steps=1, optimizer=optax.sgd(0.0))
        start = np.asarray(first.images[0])
        found = jaxviz.texture(net, params, key, style, steps=EVALUATIONS)
    twin = Twin(params, content, style, torch.float32)
    images = twin.tensor(start).requires_grad_()
    optimizer = torch.optim.LBFGS(
        [images], lr=1, max_iter=EVALUATIONS, max_eval=EVALUATIONS, history_size=20, tolerance_grad=0,
        tolerance_change=0,
    )  # fmt: skip
    losses = []

    def closure():
        optimizer.zero_grad()
        terms = twin.terms(images)
        loss = sum(weight * terms[name] for name, weight in weights.items())
        loss.backward()
        losses.append(float(loss.detach()))
        return loss

    optimizer.step(closure)
    assert len(found.losses) == EVALUATIONS
    print(f"{task}: start {losses[0]:.5f} and {found.losses[0]:.5f}, {len(losses)} evaluations, end {losses[-1]:.5f}")
    print(f"ours {found.losses[-1]:.5f}, ratio {found.losses[-1] / min(losses):.4f}")
    np.testing.assert_allclose(found.losses[0], losses[0], rtol=1e-4)
    assert found.losses[-1] <= LOSS * min(losses)
    assert found.losses[-1] < 0.2 * found.losses[0]
