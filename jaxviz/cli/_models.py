"""The network that `--model` names, with what verbs ask of it: images of its size and channels, names of classes."""

import contextlib
import dataclasses
import difflib
import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

import jaxviz
from jaxviz.cli._own_models import advice_on, described, is_own, own_network
from jaxviz.image._checks import sides_of
from jaxviz.program._digest import digest_of, digest_of_program, with_gradient
from jaxviz.program._listed import Layers
from jaxviz.program._modules import named_by_default
from jaxviz.program._once import Once
from jaxviz.program._returned import array_of, returned_by


class Model(NamedTuple):
    """A network, and the size that its images have in this run."""

    name: str
    network: jaxviz.Network
    size: int | tuple[int, int]
    taken: str = ""
    """The Python that takes the chosen output out of what the user's network returns."""

    @property
    def shape(self) -> jax.ShapeDtypeStruct:
        """Of one image."""
        return jax.ShapeDtypeStruct((1, *sides_of(self.size), self.network.channels), jnp.float32)

    @property
    def full_size(self) -> tuple[int, int, int]:
        """Height, width and channels, as functions take them that ask for a size."""
        return (*sides_of(self.size), self.network.channels)

    def read(self, source: Any, **how: Any) -> jax.Array:
        """Read an image as the network takes it; by default at the size of this run."""
        return jaxviz.load_image(source, **(how or {"size": self.size}), channels=self.network.channels)

    def layers(self) -> Layers:
        """Return what `jaxviz.layers` lists."""
        net, params = self.network
        return jaxviz.layers(net, params, self.shape)

    def digest(self) -> str:
        """Return a hash of the parameters, and of what the network and its gradient compute.

        Its name says less: `jaxviz weights import` puts other weights under it, and a file may be of another network
        tomorrow.
        """
        net, params = self.network
        found = f"{digest_of(params)} {digest_of_program(with_gradient(net), params, self.shape)}"
        if not is_own(self.name):
            return found
        return f"{found} {hashlib.sha256(repr(self.network.classes).encode(errors='surrogatepass')).hexdigest()}"

    @property
    def code(self) -> str:
        """Return the lines of Python that load it."""
        if not is_own(self.name):
            return f"net, params = jaxviz.load({self.name!r})"
        place, _, function = self.name.rpartition(":")
        first, *rest = function.split(".")
        module = Path(place).stem if place.endswith(".py") else place
        load = f"from {module} import {first}\n{{}}, params = {'.'.join((first, *rest))}()"
        if not self.taken:
            return load.format("net")
        return f"{load.format('whole')}\nnet = lambda params, images: whole(params, images){self.taken}"

    def shape_returned(self, what: str, otherwise: str = "") -> tuple[int, ...]:
        """Return the shape of what is returned; raise ValueError that lists the outputs if they are several."""
        returned = returned_by(self.network.net, self.network.params, self.shape)
        if "" in returned.arrays:
            return returned.arrays[""][2]
        likely = [name for name, (_, _, shape) in returned.arrays.items() if len(shape) == 2]
        raise ValueError(
            f"{self.name} returns a {returned.kind} and not one array ({returned or 'no arrays'}): say {what}, as in "
            f"--output {next(iter(likely or returned.arrays), 'NAME')}{otherwise}"
        )

    def class_count(self, unit: str) -> int:
        """Return how many classes the network has; raise ValueError, with what to do about it, if it has none."""
        shape = self.shape_returned("which are its class scores", f", or {unit}")
        if len(shape) != 2:
            raise ValueError(f"{self.name} has no classes: {unit}")
        return shape[1]

    def class_index(self, name: str, count: int) -> int:
        """Return the index of a class by name or number."""
        if self.network.classes is not None:
            return jaxviz.class_index(name, classes=None if self._is_imagenet else self.network.classes)
        if not name.removeprefix("-").isdecimal():
            raise ValueError(
                f"--target: expected the number of a class, 0 to {count - 1}, got {name!r}: {self.name} names no "
                "classes, as jaxviz.Network(net, params, classes=[...]) does"
            )
        if not -count <= int(name) < count:
            raise ValueError(f"--target: expected the number of a class, 0 to {count - 1}, got {name}")
        return int(name) % count

    @property
    def _is_imagenet(self) -> bool:
        return not is_own(self.name)

    def class_name(self, index: int) -> str:
        """Return the name of a class, or what it is called that has none."""
        return f"class {index}" if self.network.classes is None else self.network.classes[index]


def load_model(name: str, size: int | None = None, *, output: str | None = None, default: int = 224) -> Model:
    """Return the network that `--model` names, with a size of images: the one asked for, or its own.

    Args:
        name: of a network that comes with jaxviz, `FILE.py:FUNCTION` or `PACKAGE.MODULE:FUNCTION`.
        size: that was asked for.
        output: the part of what it returns that is taken, where it returns several arrays.
        default: for a network that says none.
    """
    if not is_own(name):
        with _told_of_own():
            network = _traced_once(jaxviz.load(name))
        model = Model(name, network, default if size is None else size)  # they take any size
        return model if output is None else _with_output(model, output)
    network = _traced_once(_telling(name, own_network(name)))
    model = Model(name, network, (network.size or default) if size is None else size)
    model = model if output is None else _with_output(model, output)
    _check_classes(model)
    return model


def _telling(name: str, network: jaxviz.Network) -> jaxviz.Network:
    """Return a network whose errors say where they come from, and that are told in a few lines."""
    inner, advice = named_by_default(network.net), advice_on(network.net)

    def telling(params: Any, images: Any) -> Any:
        try:
            return inner(params, images)
        except Exception as error:
            raise ValueError(
                f"--model {name}: net(params, images) of images {images.shape} raised {described(error)}\n"
                "If it takes images of another size or with other channels, say so: --size, or "
                f"jaxviz.Network(net, params, size=..., channels=...){advice}"
            ) from error

    # It has been normalized, where it is to be.
    return dataclasses.replace(network, net=telling, mean=None, std=None, channels=network.channels)


def _traced_once(network: jaxviz.Network) -> jaxviz.Network:
    """Return a network that is traced once in a run for each size of images, whatever is done with it."""
    return dataclasses.replace(network, net=Once(network.net), mean=None, std=None, channels=network.channels)


def _with_output(model: Model, output: str) -> Model:
    """Return a network that returns only one of its outputs."""
    network = model.network
    inner, returned = network.net, returned_by(network.net, network.params, model.shape)
    if "" in returned.arrays:
        raise ValueError(f"--output: expected none, since {model.name} returns one array {returned.arrays[''][2]}")
    if output not in returned.arrays:
        close = difflib.get_close_matches(output, returned.arrays, n=1)
        hint = f"; did you mean {close[0]!r}?" if close else ""
        there = f"{model.name} returns ({returned or 'none'})"
        raise ValueError(f"--output: expected one of the arrays that {there}, got {output!r}{hint}")
    part, place, _ = returned.arrays[output]
    only = lambda params, images: array_of(inner(params, images), part)
    taken = dataclasses.replace(network, net=only, mean=None, std=None, channels=network.channels)
    return model._replace(network=taken, taken=place)


@contextlib.contextmanager
def _told_of_own() -> Iterator[None]:
    """Say of a name that is unknown what else `--model` takes."""
    try:
        yield
    except ValueError as error:
        if "name of a pretrained network" not in str(error):
            raise
        raise ValueError(f"{error}; a network of your own is FILE.py:FUNCTION or PACKAGE.MODULE:FUNCTION") from error


def _check_classes(model: Model) -> None:
    """Raise ValueError unless the network runs on images of this size, and has a name for each of its outputs."""
    returned = returned_by(model.network.net, model.network.params, model.shape)
    _, _, shape = returned.arrays.get("", (None, "", ()))
    names = model.network.classes
    if names and len(shape) == 2 and shape[1] != len(names):
        raise ValueError(
            f"--model {model.name}: expected a name for each of {shape[1]} outputs, got {len(names)} classes"
        )


def check_layers(options: Any, model: Model, *names: str) -> None:
    """Raise ValueError for layers that nobody asked for: defaults, which are of another network."""
    if not is_own(model.name):  # of those the defaults are, or the error that the function raises says it all
        return
    fields = type(options).__dataclass_fields__
    for name in names:
        default = fields[name].default
        if getattr(options, name) != default or default is None:
            continue
        wanted = (default,) if isinstance(default, str) else default
        listed = model.layers()
        if missing := [layer for layer in wanted if layer not in listed]:
            option = f"--{name.replace('_', '-')}"
            raise ValueError(
                f"{option}: expected layers of {model.name}, which has no {', '.join(missing)} (the default). It has: "
                f"{', '.join(listed) or 'none'}"
            )
