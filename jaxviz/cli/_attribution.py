"""Which pixels matter? The attribution methods as verbs."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import tyro

from jaxviz.cli._options import Images, Name, Network, Seed, aside


@dataclass(frozen=True, kw_only=True)
class Attribution(Images, Network):
    """What all attribution methods share."""

    method: ClassVar[str]
    """The function of `jaxviz`."""
    fine: ClassVar[bool] = True
    """Its maps are bright pixels, not regions."""
    hides: ClassVar[bool] = False
    """It hides parts of the image, so a class is scored by its probability."""
    weighs: ClassVar[bool] = False
    """It weighs the maps of a layer, and explains classes only."""

    layer: Name = None
    """Explain a channel of this layer instead of a class."""
    target: Name = None
    """A class by name or number; by default the one that the network ranks first.
    With --layer, a channel; by default the whole layer."""
    out: Path = aside(Path("out"))
    """Folder for the results: the map over the image (NAME-VERB.png) and alone (NAME-VERB-map.png).
    The numbers are in NAME-VERB.npz: "map", "explained", and "settings" as JSON.
    What was made with the same settings is not made again: after Ctrl-C, the same command continues."""
    size: int | None = None
    """Height and width in pixels to which images are resized and cropped; by default the network's own, or 224."""

    def run(self) -> None:
        """Explain each image."""
        from jaxviz.cli._explain import explain

        explain(self)

    def own(self) -> dict[str, Any]:
        """Return the options that the method's function takes, under the same names."""
        shared = {"images", "model", "layer", "target", "position", "out", "size", "seed", "output"}
        return {name: value for name, value in vars(self).items() if name not in shared}


@dataclass(frozen=True, kw_only=True)
class OfUnit(Attribution):
    """A method that explains classes, layers, channels and neurons."""

    position: Annotated[tuple[int, int] | None, tyro.conf.arg(metavar="ROW COLUMN")] = None
    """Row and column of one unit of the channel."""


@dataclass(frozen=True, kw_only=True)
class OfCopies(OfUnit):
    """A method that evaluates many copies of each image."""

    batch_size: int | None = None
    """Copies of images that are evaluated at once; by default 4 on CPU, where more are slower, else 16."""


@dataclass(frozen=True, kw_only=True)
class OfMaps(Attribution):
    """A method that weighs the maps of a layer."""

    weighs = True
    layer: Name = None
    """The layer whose maps are weighed; by default the last with maps, or with tokens that the class is made from."""
    target: Name = None
    """A class by name or number; by default the one that the network ranks first."""
    tokens: Annotated[tuple[int, ...] | None, tyro.conf.arg(metavar="ROWS COLUMNS [IN-FRONT]")] = None
    """The grid of a layer of tokens, where the network does not show it."""


@dataclass(frozen=True, kw_only=True)
class Saliency(OfUnit):
    """Mark the pixels that change the score most: the largest absolute gradient over RGB."""

    verb, method = "saliency", "saliency"


@dataclass(frozen=True, kw_only=True)
class Gradient(OfUnit):
    """Differentiate each image's score with respect to its pixels, signed."""

    verb, method = "gradient", "gradient"


@dataclass(frozen=True, kw_only=True)
class InputXGradient(OfUnit):
    """Multiply each pixel by its gradient: its share of the score, if the network were linear around zero."""

    verb, method = "input-x-gradient", "input_x_gradient"


@dataclass(frozen=True, kw_only=True)
class IntegratedGradients(OfCopies):
    """Share out the score's rise from a baseline to the image among the pixels."""

    verb, method = "integrated-gradients", "integrated_gradients"
    baseline: str = "0.0"
    """Where the line to the image starts: a brightness (0: black), a color, an image, or the image blurred.
    Written as 0.5, as R,G,B such as 1,0,0, as the name of an image file, or as blur."""
    steps: int = 50
    """Points on the line; 50 is usual, 20 to 300 the paper's range. Time and, roughly, accuracy grow with it."""


@dataclass(frozen=True, kw_only=True)
class Smoothgrad(OfCopies, Seed):
    """Average the gradients of noisy copies of an image, which leaves what the noise does not change."""

    verb, method = "smoothgrad", "smoothgrad"
    noise: float = 0.15
    """Standard deviation, as a fraction of the image's own range of values."""
    samples: int = 32
    """Noisy copies of each image."""
    statistic: Literal["mean", "squared", "variance"] = "mean"
    """The mean of the gradients, signed; the mean of their squares; or their variance (VarGrad)."""


@dataclass(frozen=True, kw_only=True)
class Guided(OfUnit):
    """Differentiate a score with every ReLU passing only positive gradients of active units."""

    verb, method = "guided", "guided_backprop"


@dataclass(frozen=True, kw_only=True)
class Deconvnet(OfUnit):
    """Project a score back to pixels: every ReLU passes positive gradients, whether or not its unit was active."""

    verb, method = "deconvnet", "deconvnet"


@dataclass(frozen=True, kw_only=True)
class Lrp(OfUnit):
    """Hand the score back from layer to layer, in the proportions in which values made it up (LRP)."""

    verb, method = "lrp", "lrp"
    rule: Literal["epsilon", "gamma", "attention"] = "epsilon"
    """Which of the rules; attention is AttnLRP, for transformers."""
    epsilon: float = 1e-6
    """What keeps the denominator from zero; a larger one takes weak and contradictory evidence away."""
    gamma: float | None = None
    """How much the gamma rule favors positive weights; by default 0.25."""
    baseline: str = "0.5"
    """Where the network's own normalization has its zero.
    Written as 0.5, as R,G,B such as 1,0,0, as the name of an image file, or as blur."""


@dataclass(frozen=True, kw_only=True)
class Occlusion(OfCopies):
    """Mark each pixel by how much the score drops, on average, when a window that covers it is hidden."""

    verb, method = "occlusion", "occlusion"
    fine, hides = False, True
    window: int = 32
    """Height and width in pixels."""
    stride: int = 8
    """From one window to the next, in pixels, at most `window`."""
    fill: str = "0.5"
    """What hides: a brightness, a color, an image, or the image blurred.
    Written as 0.5, as R,G,B such as 1,0,0, as the name of an image file, or as blur."""


@dataclass(frozen=True, kw_only=True)
class Rise(OfCopies, Seed):
    """Mark each pixel by the mean score of the randomly masked copies in which it can be seen."""

    verb, method = "rise", "rise"
    fine, hides = False, True
    masks: int = 4000
    """How many; the paper takes 4000 for VGG-16, 8000 for ResNet-50."""
    cells: int = 7
    """Along each side of a mask."""
    keep: float = 0.5
    """Chance that a cell is seen, in (0, 1]."""
    fill: str = "0.5"
    """What is seen instead: a brightness, a color, an image, or the image blurred.
    The paper's is the mean of ImageNet, which is nearly gray.
    Written as 0.5, as R,G,B such as 1,0,0, as the name of an image file, or as blur."""


@dataclass(frozen=True, kw_only=True)
class Cam(OfMaps):
    """Sum a layer's maps, each weighted by its mean gradient, and keep what speaks for the score (Grad-CAM)."""

    verb, method = "cam", "grad_cam"
    fine = False


@dataclass(frozen=True, kw_only=True)
class GuidedCam(OfMaps):
    """Multiply guided backprop, which is sharp, by Grad-CAM, which tells classes apart."""

    verb, method = "guided-cam", "guided_grad_cam"
