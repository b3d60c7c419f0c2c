"""What neural-style-pt makes: its loss, start and optimizer in a few lines of PyTorch, on our VGG-16; needs PyTorch.

`textures.py` and `style.py` use it for their tables. Defaults of neural-style-pt: content relu4_2 with weight 5, style
relu1_1 to relu5_1 with weight 100 each, total variation 0.001, images in 0 to 255, `torch.optim.LBFGS` with a memory
of 100, from noise of almost no contrast or from the photograph; each Gram matrix is divided by the number of values.
The image is free while it is optimized, and clipped when it is saved. Its VGG-19 is VGG-16 here.
"""

import importlib
import math
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

# Not in the environment of the tests, so not imported by name.
torch: Any = importlib.import_module("torch")
sys.path.append(str(Path(__file__).parents[1] / "tests"))
vgg: Any = importlib.import_module("parity.vgg")

EVALUATIONS = 120, 300
CONTENT, STYLE = "relu4_2", ("relu1_1", "relu2_1", "relu3_1", "relu4_1", "relu5_1")
CONTENT_WEIGHT, STYLE_WEIGHT, SMOOTHNESS = 5.0, 100.0, 1e-3
MEAN = (123.68, 116.779, 103.939)


class Loss:
    """The loss of images (1, 3, h, w) in 0 to 255, less the mean."""

    def __init__(self, params: Any, content: np.ndarray | None, style: np.ndarray) -> None:
        self.layers = list(vgg.torch_vgg(params, "relu5_1").eval().requires_grad_(False))[1:]
        self.grams = {name: gram(value) for name, value in self.values(tensor(style)).items()}
        self.content = None if content is None else self.values(tensor(content))[CONTENT]

    def values(self, images: Any) -> dict[str, Any]:
        """Return what the ReLUs give, by name."""
        return vgg.relu_values(self.layers, images[:, [2, 1, 0]])

    def terms(self, images: Any) -> dict[str, Any]:
        """Return the weighted terms."""
        values, mean = self.values(images), torch.nn.functional.mse_loss
        terms = {name: STYLE_WEIGHT * mean(gram(values[name]), self.grams[name]) for name in STYLE}
        terms["smoothness"] = SMOOTHNESS * sum(images.diff(dim=axis).abs().sum() for axis in (2, 3))
        if self.content is not None:
            terms["content"] = CONTENT_WEIGHT * mean(values[CONTENT], self.content)
        return terms

    def errors(self, image: np.ndarray) -> dict[str, float]:
        """Return the relative errors of an image in [0, 1], as jaxviz defines them, by layer, and this loss."""
        images = tensor(image)
        values = self.values(images)
        relative = lambda found, wanted: float(((found - wanted) ** 2).sum() / (wanted**2).sum())
        found = {name: relative(gram(values[name]), self.grams[name]) for name in STYLE}
        if self.content is not None:
            found = {CONTENT: relative(values[CONTENT], self.content)} | found
        return found | {"its loss": float(sum(self.terms(images).values()))}


def gram(values: Any) -> Any:
    """Return the Gram matrix divided by the number of values."""
    rows = values.flatten(2)[0]
    return rows @ rows.T / rows.numel()


def tensor(image: np.ndarray) -> Any:
    """Return an image (h, w, 3) in [0, 1] as the loss takes it."""
    rows = 255 * np.asarray(image, np.float32) - np.asarray(MEAN, np.float32)
    return torch.tensor(np.ascontiguousarray(rows.transpose(2, 0, 1)[None]))


def beside(
    params: Any, content: np.ndarray | None, style: np.ndarray, ours: Callable[..., Any], label: str = ""
) -> list[np.ndarray]:
    """Return its pictures and ours after as many evaluations, and print their errors as rows of a table.

    `ours` runs jaxviz with the options it is given: `steps`, `every` and a `callback`.
    """
    size = (style if content is None else content).shape
    found = {
        f"{label}neural-style-pt, {count}": picture
        for count, picture in zip(
            EVALUATIONS, neural_style_pt(params, content, style, (size[0], size[1]), EVALUATIONS), strict=True
        )
    }
    seen: dict[int, np.ndarray] = {}
    keep = lambda made: seen.update({len(made.losses): np.asarray(made.images[0])})
    ours(steps=max(EVALUATIONS), every=math.gcd(*EVALUATIONS), callback=keep)
    found |= {f"{label}jaxviz, {count}": seen[count] for count in EVALUATIONS}
    loss = Loss(params, content, style)
    for name, image in found.items():
        errors = loss.errors(image)
        total = errors.pop("its loss")
        print(f"| {name} | {' | '.join(f'{error:.2g}' for error in errors.values())} | {total:,.0f} |", flush=True)
    return list(found.values())


def neural_style_pt(
    params: Any, content: np.ndarray | None, style: np.ndarray, size: tuple[int, int], evaluations: Sequence[int]
) -> Iterator[np.ndarray]:
    """Yield the image, (h, w, 3) in [0, 1], after each of several numbers of evaluations: a texture without content."""
    loss = Loss(params, content, style)
    torch.manual_seed(0)
    start = 0.001 * torch.randn(1, 3, *size) if content is None else tensor(content)
    images, seen = torch.nn.Parameter(start), []

    def closure() -> Any:
        optimizer.zero_grad()
        total = sum(loss.terms(images).values())
        total.backward()
        seen.append(images.detach().clone() if len(seen) in evaluations else None)
        return total

    last = max(evaluations)
    optimizer = torch.optim.LBFGS([images], max_iter=last + 1, tolerance_change=-1, tolerance_grad=-1)
    optimizer.step(closure)
    for count in evaluations:
        found = seen[count][0].numpy().transpose(1, 2, 0) + np.asarray(MEAN, np.float32)
        yield np.clip(found / 255, 0, 1)
