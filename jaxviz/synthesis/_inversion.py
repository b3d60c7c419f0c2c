"""Feature inversion: an image that has given features, which shows what information a layer keeps."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
import optax
from jax.typing import ArrayLike

from jaxviz._options import check_batch, check_least_zero, check_number, check_optimizer, check_positive, check_run
from jaxviz._types import AnyImages, Key, Net
from jaxviz.program._once import once
from jaxviz.scores._likeness import match_features
from jaxviz.show._bar import Watcher, followed
from jaxviz.synthesis._lbfgs import lbfgs
from jaxviz.synthesis._minimize import follow
from jaxviz.synthesis._parameterization import Basis, fourier, parameterized
from jaxviz.synthesis._penalties import Weighted, alpha_norm, total_variation
from jaxviz.synthesis._render import render
from jaxviz.synthesis._stages import Synthesis, Watch

LONGEST = 0.05  # longest step: longer ones end where the sigmoid of the Fourier basis is flat


@followed
def invert(
    net: Net,
    params: Any,
    key: Key,
    images: AnyImages,
    *,
    layer: str,
    steps: int = 200,
    smoothness: ArrayLike = 0.5,
    norm: ArrayLike = 0.01,
    alpha: float = 6.0,
    beta: float = 2.0,
    basis: Basis = fourier,
    start: AnyImages | None = None,
    optimizer: optax.GradientTransformation | None = None,
    tolerance: float | None = None,
    every: int = 8,
    resume: Sequence[Any] | None = None,
    callback: Watch | None = None,
    progress: Watcher = False,
) -> Synthesis:
    """Find images whose features at a layer match those of the given images.

    Minimizes `|f(x) - f(images)|² / |f(images)|²` plus `norm` times the mean of `|x - mean color|^alpha` plus
    `smoothness` times the total variation: what the layer does not keep is filled in as smoothly as possible.

    Args:
        net: any JAX function `net(params, images)`.
        params: its parameters.
        key: the random key, for the start. Copies of one image in `images` start from different noise: how the results
            differ shows what the layer does not see.
        images: `(n, h, w, c)` in [0, 1]; each is inverted separately.
        layer: the layer whose features are matched, a name that `layers` lists.
        steps: the number of steps. 250 leave an error of 0.2% to 0.3% at VGG-16's relu3_3 and of 1% to 3% at relu5_3.
        smoothness: the weight of the total variation.
        norm: the weight of the alpha norm.
        alpha: its power, at least 1; a large one keeps brightness within a range, regardless of where in it.
        beta: the power of the total variation, see `total_variation`.
        basis: what is optimized: see `ascend`. `pixels` converges sooner at the lowest layers, where the finest detail
            counts; `fourier` elsewhere, with truer colors.
        start: the images to start from; None: noise.
        optimizer: any optax transformation; None: L-BFGS.
        tolerance: stop when the loss has not fallen by more than this fraction of itself in 32 steps; None: never.
        every: the number of steps between callbacks.
        resume: the `state` of a stopped run with the same arguments, to resume it.
        callback: called as `callback(synthesis)` with the images so far; if it returns true, the run ends. The memory
            of its `state` is reused when it returns: copy what you want to keep.
        progress: True: a bar in a terminal or notebook (see `ProgressBar`); or a function, called like `callback`.

    Returns:
        The images after the last step, `(n, h, w, c)` in [0, 1], and the losses before each step. With L-BFGS, the last
        step may have raised the loss: see `lbfgs`.

    Raises:
        ValueError: for an unknown layer, a start of another shape, and options that are out of range.
        DivergedError: if the loss stops being finite; its `found` has the last good images.

    Example:
        >>> import jax, jax.numpy as jnp, jaxviz
        >>> net = lambda params, images: jax.nn.relu(images @ params)
        >>> images = jnp.full((1, 8, 8, 3), jnp.array([0.2, 0.5, 0.8]))
        >>> found = jaxviz.invert(net, jnp.eye(3), jax.random.key(0), images, layer="relu_0", steps=200)
        >>> print(found.images[0, 4, 4].round(1))
        [0.2 0.5 0.8]

    Mahendran & Vedaldi 2014, Understanding Deep Image Representations by Inverting Them.
    """
    check_batch("images", images)
    check_run(steps=steps, every=every, tolerance=tolerance, callback=callback)
    for name, number in (("smoothness", smoothness), ("norm", norm)):
        check_least_zero(name, number)
    check_number("alpha", alpha, "of at least 1", lambda x: x >= 1)
    check_positive("beta", beta)
    if optimizer is not None:
        check_optimizer(optimizer)
    form = parameterized(basis, *images.shape[1:])
    if start is not None and jnp.shape(start) != images.shape:
        raise ValueError(f"start: expected the images' shape {images.shape}, got {jnp.shape(start)}")
    if start is not None:
        check_batch("start", start)
    net = once(net)
    smooth = Weighted(smoothness, total_variation, {"beta": beta})
    run = render(
        match_features(net, params, images, [layer]),
        params,
        form.init(key, len(images)) if start is None else form.variables(jnp.asarray(start)),
        key,
        form=form,
        penalties=(smooth, Weighted(norm, alpha_norm, {"alpha": alpha})),
        dtype=images.dtype,
        optimizer=lbfgs(longest=LONGEST) if optimizer is None else optimizer,
        steps=steps,
        tolerance=tolerance,
        every=every,
        resume=resume,
    )
    return follow(run, callback, lambda look: look.synthesis("invert"))
