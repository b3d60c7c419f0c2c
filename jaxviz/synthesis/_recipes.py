"""Options of `ascend`, by the paper that published them."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
import optax

from jaxviz._options import check_positive
from jaxviz.image._arrays import IMAGENET_MEAN, colors_for
from jaxviz.synthesis._lbfgs import Projected
from jaxviz.synthesis._magnitudes import maco
from jaxviz.synthesis._parameterization import Parameterization, fourier, pixels
from jaxviz.synthesis._penalties import IMAGENET_STD, l2, normalized_l2
from jaxviz.synthesis._steps import (
    blurring,
    clipping,
    decay,
    normalized_steps,
    progressing_steps,
    small_contributions,
    small_norms,
)
from jaxviz.synthesis._transforms import crops, jitter_scale_rotate, rolls


def _pixelwise(steps: int, *optimizers: optax.GradientTransformation, **options: Any) -> dict[str, Any]:
    """Return the options shared by the papers before 2017: pixels, starting from the mean color, not transformed."""
    common = {"basis": Around(IMAGENET_MEAN, 0.0), "transform": None, "views": 1, "steps": steps}
    chained = optax.chain(*optimizers, clipping())
    return common | {"optimizer": Projected(chained.init, chained.update)} | options


@dataclasses.dataclass(frozen=True)
class Around:
    """Pixels that start around an RGB color; in images other than RGB, all channels start around its mean."""

    center: tuple[float, ...]
    spread: float | tuple[float, ...]

    def __call__(self, height: int, width: int, *, channels: int = 3) -> Parameterization:
        image = jax.ShapeDtypeStruct((height, width, channels), np.float64)
        center, spread = (colors_for(numbers, image) for numbers in (self.center, self.spread))
        return pixels(height, width, channels=channels, center=center, spread=spread)


# Yosinski et al. start from the mean with noise of deviation 10/255, the assignment from noise of deviation 1 in the
# network's normalized units (clipped here before the first step, there after it).
_noisy_mean = Around(IMAGENET_MEAN, 10 / 255)
_noise = Around(IMAGENET_MEAN, IMAGENET_STD)


def _yosinski(steps: int, first: optax.GradientTransformation, *others: optax.GradientTransformation) -> dict[str, Any]:
    return _pixelwise(steps, first, *others, basis=_noisy_mean)


# Their rates are for pixels of 0 to 255, where gradients are 255 times smaller and steps 255 times larger.
_UNIT = 255.0**2

RECIPES: dict[str, Callable[[float], dict[str, Any]]] = {
    "simonyan": lambda rate: _pixelwise(200, normalized_steps(2.0 * rate), penalties=((10.0, l2),)),
    "cs231n": lambda rate: _pixelwise(
        100,
        normalized_steps(25.0 * rate, unit=IMAGENET_STD),
        clipping(),
        blurring(0.5, 10),
        basis=_noise,
        penalties=((1e-3, normalized_l2),),
        transform=rolls(most=16),
    ),
    "yosinski-1": lambda rate: _yosinski(
        500, progressing_steps(2.0 * rate, 100 / _UNIT * rate), blurring(0.5, 4), small_norms(50.0)
    ),
    "yosinski-2": lambda rate: _yosinski(750, optax.sgd(100 / _UNIT * rate), decay(0.3), small_norms(20.0)),
    "yosinski-3": lambda rate: _yosinski(1000, optax.sgd(100 / _UNIT * rate), decay(0.0001), blurring(1.0, 4)),
    "yosinski-4": lambda rate: _yosinski(
        1000, progressing_steps(2.0 * rate, 1e8 / _UNIT * rate), blurring(0.5, 4), small_contributions(90.0)
    ),
    "olah2017": lambda rate: {
        "basis": fourier,
        "transform": jitter_scale_rotate(),
        "views": 1,
        "learning_rate": 0.05 * rate,
        "steps": 512,
    },
    # One crop per step is noisier than the 32 of the authors' program, and needs a smaller rate and larger crops.
    "maco": lambda rate: {
        "basis": maco,
        "transform": crops(least=0.25, most=1.0, noise=0.05),
        "views": 1,
        "optimizer": optax.adam(0.2 * rate),
        "steps": 256,
    },
}


def recipe(name: str, *, rate: float = 1.0) -> dict[str, Any]:
    """Return the options of `ascend` that a paper published: `ascend(score, params, key, **recipe("cs231n"))`.

    Values published for pixels of 0 to 255 or normalized pixels are converted to [0, 1]; the mean is ImageNet's mean
    color, or its mean brightness for images other than RGB. Loops written like those of the sources give the same
    images (except for "maco").

    - "simonyan": the lecture's four steps. Starting from the mean color, steps along the gradient, with an L2 penalty.
      The paper gives no numbers: 200 steps of length 2, and a penalty of 10 times the mean square, are ours.
    - "cs231n": the course's assignment (PyTorch). Starting from noise, 100 steps of length 25 in the network's
      normalized units, with a penalty of `1e-3 |I|²` in those units; jitter of 0 to 16 whole pixels; a blur of 0.5
      pixels at steps 0, 10, 20, ... The assignment leaves open whether the gradient is divided by its length; here it
      is, as in its fooling images, so that the step does not depend on the network.
    - "yosinski-1" to "yosinski-4": the four sets of their Table 1: pixels of small norm set to the mean, and blur;
      decay and small norm; decay and blur, which made most of their pictures; blur and small contributions, in the
      order and at the steps (0, 4, 8, ...) of their program. Their learning rates are for the logits of CaffeNet, whose
      gradients are large: raise `rate` for other networks. On EfficientNet-Lite0, "yosinski-3" shows a class with a
      `rate` of 100; 1 and 4 raise its score by changes too faint to see.
    - "olah2017": Adam in a Fourier basis with decorrelated colors, each step seen shifted, scaled and rotated:
      higher scores than the defaults of `ascend`, in less natural images.
    - "maco": phases only, seen through random crops with noise. Its numbers are ours: one crop per step, of a quarter
      to the whole image, and Adam with a learning rate of 0.2. The paper uses NAdam with a rate of 1 and 256 steps; its
      published program averages 32 crops per step, of half to a twentieth of the image, and maintains the standard
      deviation of phases and pixels.

    Args:
        name: one of the above.
        rate: a factor of the published learning rate, above 0.

    Returns:
        The options of `ascend`, which may be changed: `recipe(name) | {"steps": 100}`.

    Raises:
        ValueError: for another name, or a rate that is not above 0.

    Example:
        >>> import jax, jax.numpy as jnp, jaxviz
        >>> score = lambda params, images: images[..., 0].mean((1, 2)) - images[..., 1].mean((1, 2))
        >>> options = jaxviz.recipe("simonyan") | {"steps": 20, "size": 16}
        >>> found = jaxviz.ascend(score, None, jax.random.key(0), **options)
        >>> print(bool(found.images[..., 0].mean() > found.images[..., 1].mean()))
        True

    Simonyan et al. 2013, Deep Inside Convolutional Networks; Yosinski et al. 2015, Understanding Neural Networks
    Through Deep Visualization; Fel et al. 2023, Unlocking Feature Visualization for Deep Networks with MAgnitude
    Constrained Optimization.
    """
    if name not in RECIPES:
        raise ValueError(f"recipe: expected one of {', '.join(RECIPES)}, got {name!r}")
    check_positive("rate", rate)
    return dict(_made(name, float(rate)))


@functools.cache
def _made(name: str, rate: float) -> dict[str, Any]:
    """Make the options once: another optimizer object would compile a new program."""
    return RECIPES[name](rate)
