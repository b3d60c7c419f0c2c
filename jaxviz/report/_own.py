"""A network of the user's own, as the tour's sections need it: its layers, early, middle and late, and its classes."""

import inspect
import re
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

import jaxviz
from jaxviz.image._checks import sides_of
from jaxviz.program._listing import Listed, listed
from jaxviz.program._modules import named_by_default


class LeftOut(Exception):
    """A section that cannot be made of this network, and why."""


class Own(NamedTuple):
    """A network, and what was found out about it."""

    name: str
    code: str
    """The lines of Python that load it."""
    network: jaxviz.Network
    size: int | tuple[int, int]
    digest: str
    layers: tuple[Listed, ...]
    """Early, middle and late: three, or fewer where there are not as many."""
    rows: str | None
    """The last layer of one vector for each image, in front of the outputs."""
    class_count: int
    """Of classes; 0 if it is no classifier."""
    gives_chances: bool
    """Whether it returns probabilities."""
    any_size: bool
    """Whether it takes images of other sizes, too."""

    @property
    def net(self) -> Any:
        return self.network.net

    @property
    def params(self) -> Any:
        return self.network.params

    def class_name(self, index: int) -> str:
        """Return the name of a class, shortened to its first synonym, or its number."""
        names = self.network.classes
        return f"class {index}" if names is None else f"“{names[index].split(',')[0]}”"

    def score(self, target: Any = None) -> Any:
        """Return the score of a class: by default the one that is ranked first, or the late layer's energy."""
        if not self.class_count:
            if not self.layers:
                raise LeftOut("the network has neither classes nor a layer of maps or tokens")
            return jaxviz.energy(self.net, self.layers[-1].name)
        return (jaxviz.probability if self.gives_chances else jaxviz.logit)(self.net, target)

    def code_of(self, call: Callable[..., Any]) -> str:
        """Return the lines of Python that make what a section's call is given."""
        if "score" not in inspect.signature(call).parameters:
            return self.code
        last = repr(self.layers[-1].name) if self.layers else ""
        kind = (
            f"energy(net, {last})"
            if not self.class_count
            else "probability(net)"
            if self.gives_chances
            else "logit(net)"
        )
        return f"{self.code}\nscore = jaxviz.{kind}{'  # of the class ranked first' if self.class_count else ''}"

    def what(self) -> str:
        """Say what is explained."""
        return "the class ranked first" if self.class_count else f"everything that {self.layers[-1].name} responds to"

    def maps(self) -> tuple[Listed, ...]:
        """Return those of the layers that have rows and columns."""
        return tuple(layer for layer in self.layers if layer.layout == "map")

    def ranked(self, images: Any) -> list[tuple[int, float]]:
        """Return the classes of an image, the most probable one first, with their probabilities."""
        every = jaxviz.probability(self.net, jnp.arange(self.class_count)[None])
        chances = jax.jit(lambda params, images: every(params, images))(self.params, images)[0]
        order = jnp.argsort(chances, descending=True).tolist()
        return [(index, float(chances[index])) for index in order]

    def says(self, images: Any) -> str:
        """Return the class of an image in words."""
        index, chance = self.ranked(images)[0]
        return f"{self.class_name(index)} ({chance:.0%} sure)"


def looked_at(name: str, code: str, network: jaxviz.Network, size: int | tuple[int, int], digest: str) -> Own:
    """Find out about a network what the sections need to know; nothing but its program is looked at."""
    shape = jax.ShapeDtypeStruct((1, *sides_of(size), network.channels), jnp.float32)
    outputs = jax.eval_shape(network.net, network.params, shape)
    classes = outputs.shape[1] if len(getattr(outputs, "shape", ())) == 2 else 0
    found = listed(network.net, network.params, shape)
    vectors = [layer.name for layer in found if layer.layout == "vector" and layer.shape[1] not in (1, classes)]
    return Own(
        name=name,
        code=code,
        network=network,
        size=size,
        digest=digest,
        layers=chosen(found),
        rows=vectors[-1] if vectors else None,
        class_count=classes,
        gives_chances=bool(classes) and _gives_chances(network, shape),
        any_size=_takes_other_sizes(network, sides_of(size)),
    )


_NUMBERED_SUM = re.compile(r"(.*/)?add_\d+")


def chosen(found: Sequence[Listed], count: int = 3) -> tuple[Listed, ...]:
    """Choose layers of maps, or of tokens where a network has more of these: an early one, a middle one, the last.

    Activations and sums of residual blocks come before what is in between, and a block's own before a sum inside it.
    """
    maps = [layer for layer in found if layer.layout == "map" and _places(layer) >= 4]
    tokens = [layer for layer in found if layer.layout == "tokens" and layer.shape[1] >= 4]
    widths = Counter(layer.shape for layer in tokens)  # of the residual stream, not of what is inside a block
    tokens = [layer for layer in tokens if layer.shape == widths.most_common(1)[0][0]]
    pool = maps if len(maps) >= len(tokens) else tokens
    for kinds in (("relu",), ("sum",), ("activation",), ("conv", "dense")):
        best = [layer for layer in pool if layer.kind in kinds]
        blocks = [layer for layer in best if not _NUMBERED_SUM.fullmatch(layer.name)]
        if len(best) >= count:
            pool = blocks if len(blocks) >= count else best
            break
    last = len(pool) - 1
    places = sorted({round(last * part) for part in (0.15, 0.55, 1.0)}) if pool else []
    return tuple(pool[i] for i in places)


def _places(layer: Listed) -> int:
    assert layer.place is not None
    return layer.shape[layer.place[0]] * layer.shape[layer.place[1]]


def _gives_chances(network: jaxviz.Network, shape: Any) -> bool:
    try:
        jax.eval_shape(jaxviz.logit(network.net), network.params, shape)
    except ValueError as error:
        if "returns probabilities" not in str(error):
            raise
        return True
    return False


def _takes_other_sizes(network: jaxviz.Network, sides: tuple[int, int]) -> bool:
    for part in (0.75, 1.5):
        other = (max(1, round(part * side)) for side in sides)
        shape = jax.ShapeDtypeStruct((1, *other, network.channels), jnp.float32)
        try:
            jax.eval_shape(named_by_default(network.net), network.params, shape)
        except Exception:  # a network may refuse a shape in any way
            return False
    return True
