"""Scores of classes: of an image, of a row that a detector returns, or of the pixels of a segmentation."""

from __future__ import annotations

import dataclasses
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Shaped

from jaxviz._types import Net
from jaxviz.image._arrays import AnyArray
from jaxviz.models._class_names import class_index
from jaxviz.models._network import classes_of
from jaxviz.program._axes import image_axes
from jaxviz.program._outputs import Reading
from jaxviz.program._returned import Output
from jaxviz.scores._algebra import Index, Read, numbers, static
from jaxviz.scores._masks import fitted, mask_of, mean_in
from jaxviz.scores._picked import picked


class _Outputs(NamedTuple):
    """What a network returns, classes last, and the values to pick from: the same, or probabilities."""

    returned: Float[Array, "n *_ k"]
    values: Float[Array, "n *_ k"]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Logit(Read):
    """The logit of a class, or its probability."""

    net: Net = static()
    target: Any = None
    softmax: bool = dataclasses.field(default=False, metadata={"static": True})
    output: Output = dataclasses.field(default=Output(), metadata={"static": True})
    position: Any = None
    where: Any = None
    predicted: bool = dataclasses.field(default=False, metadata={"static": True})

    @property
    def layers(self) -> tuple[Output, ...]:
        """What the network returns."""
        return (self.output,)

    def lengths(self) -> set[int]:
        """Return how many images the classes, positions and masks are for; a single mask fits any number."""
        masks = set() if self.where is None else {len(self.where)} - {1}
        places = jax.tree.leaves((self.target, self.position))
        return masks | {len(place) for place in places if jnp.ndim(place) == 1}

    def of_parts(self) -> bool:
        """Tell whether it is of the whole image, or of all positions alike."""
        return self.position is None and self.where is None

    def taken(self, reading: Reading, images: Any) -> _Outputs:
        returned, are_chances = reading.classes(self.output)
        self._check_shape(returned, images)
        if not self.softmax and are_chances:
            raise ValueError(
                "logit: this network ends in a softmax or a sigmoid, so it returns probabilities, not logits; "
                "use jaxviz.probability, or the network without its last function"
            )
        if returned.ndim == 4 and image_axes(reading.layers[self.output][1]).is_map:
            returned = reading.arranged(self.output, "map", "logit")
        return _Outputs(returned, returned if are_chances or not self.softmax else _chances(returned))

    def _check_shape(self, returned: Array, images: Any) -> None:
        pair = isinstance(self.position, tuple)
        axes = 4 if pair or self.where is not None or self.predicted else 2 if self.position is None else 3
        shape, count = jnp.shape(returned), len(images)
        if len(shape) == axes and shape[0] == count:
            names = classes_of(self.net) if self.output == Output() else None
            if names is not None and len(names) != shape[-1]:
                raise ValueError(f"expected a network with a name for each class, got {len(names)} for {shape[-1]}")
            return
        expected = {2: "(n, classes)", 3: "(n, rows, classes)", 4: "(n, h, w, classes)"}[axes]
        hint = "; add an axis of classes, net(params, images)[:, None]" if (shape, axes) == ((count,), 2) else ""
        if axes == 2 and len(shape) in (3, 4) and shape[0] == count:
            other = "position=, the number of a row" if len(shape) == 3 else 'position=, where=, a mask, or "predicted"'
            hint = f"; of which part of them is the score? Say {other}"
        raise ValueError(
            f"a class score needs a network that returns {expected}, got shape {shape} for {count} images{hint}"
        )

    def measured(self, values: _Outputs) -> Array:
        return values.values

    def pick(self, outputs: _Outputs) -> Array:
        values = self._pooled(outputs, outputs.values)
        return picked(values, self.best(outputs) if self.target is None else self.target, "class", several=True)

    def best(self, outputs: _Outputs) -> Array:
        """Return the class that ranks first in each image."""
        found = outputs.returned
        ranked = _predicted(found).sum((1, 2)) if self.predicted else self._pooled(outputs, found)
        return jax.lax.stop_gradient(jnp.argmax(ranked, axis=-1))

    def _pooled(self, outputs: _Outputs, values: Array) -> Float[Array, "n k"]:
        """Return one number per class, for the requested position or pixels."""
        if self.predicted:
            return mean_in(_predicted(outputs.returned), values)
        if self.where is not None:
            return mean_in(self.where if self.where.ndim == 4 else fitted(self.where, values), values)
        places = () if self.position is None else self.position
        for axis, place in zip(("row", "column"), places if isinstance(places, tuple) else (places,), strict=False):
            values = picked(jnp.moveaxis(values, 1, -1), place, f"{axis} of {self.output}")
        return values

    def held(self, outputs: _Outputs) -> "Logit":
        """Return this score with the class, and the pixels, that it selects from these outputs held fixed."""
        target = self.best(outputs) if self.target is None else self.target
        where = _predicted(outputs.returned) if self.predicted else self.where
        return dataclasses.replace(self, target=target, where=where, predicted=False)


def class_numbers(net: Any, target: Any) -> Any:
    """Return classes by their numbers, where they are given by their names; raise ValueError for names of none."""
    named = np.asarray(target) if isinstance(target, str | list | tuple | np.ndarray) else np.zeros(0)
    if named.dtype.kind not in "UO" or not all(isinstance(name, str) for name in named.flat):
        return target
    classes = classes_of(net)
    if classes is None:
        raise ValueError(
            f"expected the number of a class, got {target!r}, and this network has no names for its classes: give "
            "them as jaxviz.Network(net, params, classes=[...]), or the number; jaxviz.class_index has ImageNet's"
        )
    found = [class_index(str(name), classes=classes) for name in named.flat]
    return found[0] if isinstance(target, str) else np.reshape(found, named.shape)


def _predicted(returned: Float[Array, "n h w k"]) -> Float[Array, "n h w k"]:
    """Return 1 where a class ranks first, else 0."""
    classes = jnp.argmax(returned, axis=-1)
    return jax.nn.one_hot(classes, returned.shape[-1], dtype=returned.dtype)


def _chances(logits: Array) -> Array:
    """Return probabilities: a softmax over the classes or, for a single output, a sigmoid."""
    return jax.nn.sigmoid(logits) if logits.shape[-1] == 1 else jax.nn.softmax(logits)


Class = str | Index

Where = Shaped[AnyArray, "*_ _ _"] | Literal["predicted"]


def logit(
    net: Net,
    target: Class | None = None,
    *,
    output: Any = None,
    position: Index | tuple[Index, Index] | None = None,
    where: Where | None = None,
) -> Logit:
    """Score a class by its logit, before any softmax.

    Args:
        net: a classifier that returns logits, `(n, classes)`; or, with `position` or `where`, a network that returns
            them for several rows or for each pixel.
        target: a class; one per image, `(n,)`; k per image, `(n, k)`, or the same k for all, `(1, k)`; None: the class
            that the network ranks first, held fixed. Negative numbers count from the end: -1 is the last. A network
            of `load`, or of a `Network` with `classes`, takes names, too, as `class_index` does: `logit(net, "cat")`.
        output: which part to use if the network returns a tuple, a dictionary or an object: its index, key or
            attribute, or a tuple of those that lead to it. None: the network returns one array.
        position: for outputs `(n, rows, classes)`, as of a detector, the index of a row; for `(n, h, w, classes)`, the
            row and column of a pixel. One for all images, or one per image, `(n,)`.
        where: for outputs `(n, h, w, classes)`, as of a segmentation, the pixels to average over: a mask in [0, 1],
            `(h, w)` or one per image, `(n, h, w)`, which is resized to the logits; or "predicted", the pixels where
            the class ranks first, held fixed; the score is 0 if there are none.

    Returns:
        A score, `(n,)`, or `(n, k)` for k targets per image.

    Raises:
        ValueError: for a name that no class has (the message lists similar ones), or that several have, and for names
            if the network has none; when called, for a class that does not exist, for a network that returns anything
            but one array of that shape, and for one that ends in a softmax or a sigmoid and so returns probabilities.

    Example:
        >>> import jax.numpy as jnp, jaxviz
        >>> net = lambda params, images: images.mean((1, 2)) @ params
        >>> images = jnp.full((2, 4, 4, 3), jnp.array([0.25, 0.5, 1.0]))
        >>> print(jaxviz.logit(net, 1)(jnp.eye(3), images))
        [0.5 0.5]
        >>> print(jaxviz.logit(net, jnp.array([[0, 2]]))(jnp.eye(3), images))  # two classes of every image
        [[0.25 1.  ]
         [0.25 1.  ]]
        >>> net, params = jaxviz.Network(net, jnp.eye(3), classes=["red", "green", "blue"])
        >>> print(jaxviz.logit(net, "blue")(params, images))
        [1. 1.]

    Other outputs: a dictionary, the pixels of a segmentation, a number of the third box.

        >>> two = lambda params, images: {"logits": net(params, images), "features": images}
        >>> print(jaxviz.logit(two, 1, output="logits")(jnp.eye(3), images))
        [0.5 0.5]
        >>> print(jaxviz.logit(lambda params, images: images @ params, 2, where="predicted")(jnp.eye(3), images))
        [1. 1.]
        >>> boxes = lambda params, images: (images.reshape(2, 16, 3), None)
        >>> print(jaxviz.logit(boxes, 0, output=0, position=2)(None, images))
        [0.25 0.25]
    """
    return _made(net, target, False, output, position, where)


def probability(
    net: Net,
    target: Class | None = None,
    *,
    output: Any = None,
    position: Index | tuple[Index, Index] | None = None,
    where: Where | None = None,
) -> Logit:
    """Score a class by its probability, the softmax of the logits, as in RISE and the deletion curves.

    For a network with a single output, `(n, 1)`, it is the sigmoid: the probability of class 0, the only one. If the
    network ends in a softmax or a sigmoid, as its traced program shows, its outputs are used unchanged.

    Args:
        net: a classifier that returns logits or probabilities, `(n, classes)`; see also `logit`.
        target, output, position, where: as for `logit`.

    Returns:
        A score in [0, 1], `(n,)`, or `(n, k)` for k targets per image.

    Raises:
        ValueError: as for `logit`, except that the network may return probabilities.

    Example:
        >>> import jax.numpy as jnp, jaxviz
        >>> net = lambda params, images: images.mean((1, 2)) @ params
        >>> print(jaxviz.probability(net, 1)(jnp.eye(3), jnp.full((1, 4, 4, 3), jnp.log(jnp.array([1.0, 2.0, 1.0])))))
        [0.5]
    """
    return _made(net, target, True, output, position, where)


def _made(net: Net, target: Any, softmax: bool, output: Any, position: Any, where: Any) -> Logit:
    if position is not None and where is not None:
        raise ValueError("where: expected none beside a position: a score is for one position or for some pixels")
    if isinstance(where, str) and where != "predicted":
        raise ValueError(f"where: expected a mask (h, w) or (n, h, w), or 'predicted', got {where!r}")
    place = tuple(numbers(x) for x in position) if isinstance(position, tuple) else numbers(position)
    if isinstance(place, tuple) and len(place) != 2:
        raise ValueError(f"position: expected the number of a row, or (row, column), got {position!r}")
    mask = None if where is None or isinstance(where, str) else mask_of("where", where)
    target = numbers(class_numbers(net, target))
    return Logit(net, target, softmax, Output.of(output), place, mask, isinstance(where, str))
