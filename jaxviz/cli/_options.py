"""Options that verbs share, as dataclasses: which network and unit, which images, which run.

A verb is a dataclass that inherits some of these and adds its own options. tyro makes a command line of it, flat, with
the docstrings under the fields as help; each line of one is a sentence, since tyro keeps the breaks. Like all that help
needs, this imports no JAX: what a verb does stands in another module, which its `run` imports.
"""

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, ClassVar, Literal, TypeVar

import tyro

T = TypeVar("T")

Name = Annotated[str | None, tyro.conf.arg(metavar="NAME")]
Names = Annotated[tuple[str, ...], tyro.conf.arg(metavar="NAME [NAME ...]")]
Numbers = Annotated[tuple[float, ...], tyro.conf.arg(metavar="FLOAT [FLOAT ...]")]
File = Annotated[Path | None, tyro.conf.arg(metavar="FILE")]
Files = Annotated[tuple[Path, ...], tyro.conf.arg(metavar="FILE [FILE ...]")]
Source = Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="SOURCE")]
ImageFiles = Annotated[tuple[Path, ...], tyro.conf.arg(metavar="IMAGE [IMAGE ...]")]
StyleFiles = Annotated[tuple[Path, ...], tyro.conf.Positional, tyro.conf.arg(metavar="STYLE [STYLE ...]")]


def aside(default: T) -> T:
    """Return a field that is no setting of a run: with another value, a run makes the same images."""
    return dataclasses.field(default=default, metadata={"setting": False})


class Verb:
    """What all verbs can do."""

    verb: ClassVar[str]

    def run(self) -> None:
        """Do what the options say."""
        raise NotImplementedError


@dataclass(frozen=True, kw_only=True)
class OneOutput(Verb):
    """Which part of what a network returns."""

    output: Name = aside(None)  # the network's digest tells two parts apart
    """Of a network that returns several arrays, the one with its class scores: a key, an attribute or an index.
    Several that lead to a part are joined by dots, as in heads.logits."""


@dataclass(frozen=True, kw_only=True)
class Network(OneOutput):
    """Which network."""

    model: str = "efficientnet_lite0"
    """A network that `jaxviz weights list` shows, or yours: FILE.py:FUNCTION or PACKAGE.MODULE:FUNCTION.
    That runs the file, and the function, which returns (net, params) or a jaxviz.Network."""


@dataclass(frozen=True, kw_only=True)
class Layer(Network):
    """Which layer of a network."""

    model: str = "vgg16_features"
    layer: str = "relu5_1"
    """Whose features, or units."""


@dataclass(frozen=True, kw_only=True)
class Unit(Layer):
    """Which channels of a layer, together."""

    target: Names = ()
    """Channels of the layer by number; by default the whole layer."""


@dataclass(frozen=True, kw_only=True)
class Images(Verb):
    """Which images."""

    images: Annotated[ImageFiles, tyro.conf.Positional] = aside(())
    """Files, or folders of files."""


@dataclass(frozen=True, kw_only=True)
class Seed(Verb):
    """Which random numbers."""

    seed: int = 0
    """Of all randomness."""


@dataclass(frozen=True, kw_only=True)
class Run(Seed):
    """Which run, and whether an earlier one is resumed."""

    out: Path = aside(Path("out"))
    """Folder for the results: the picture (NAME-VERB.png) and the numbers (NAME-VERB.npz).
    What was finished with the same settings is not made again."""
    resume: bool = aside(False)
    """Go on with a run that was stopped, by Ctrl-C or otherwise, from what it saved last."""


@dataclass(frozen=True, kw_only=True)
class Steps(Run):
    """Which run, and how often it saves what it has."""

    every: int = aside(32)
    """Save the picture and the state every so many steps; with --snapshots, keep a copy of each picture."""
    snapshots: bool = aside(False)
    """Keep the pictures on the way, as NAME-VERB-STEP.png."""


@dataclass(frozen=True, kw_only=True)
class Tolerance(Verb):
    """When a run may end early."""

    tolerance: float | None = None
    """Stop when the loss has not fallen by more than this fraction of itself over 32 steps; None: never."""


@dataclass(frozen=True, kw_only=True)
class Octaves(Tolerance):
    """How the matching of Gram matrices is minimized, from small to large."""

    octaves: int = 1
    """Sizes to work at, each twice the one before."""
    steps: int = 300
    """At each size, at most."""
    smoothness: float = 0.0
    """Weight of the total variation."""
    tile: int | None = None
    """Compute losses and gradients in tiles of this side at most, in pixels: memory is that of one tile."""
    optimizer: Literal["lbfgs", "adam"] | None = None
    """The optimizer, by default L-BFGS."""
    learning_rate: float | None = None
    """Of "adam"; None: 0.02."""
