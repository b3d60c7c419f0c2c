"""The attribution methods as verbs of the command line, each built from its function's signature."""

import contextlib
import functools
import inspect
import io
import json
import signal
import warnings
from collections.abc import Callable, Iterator, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import tyro

import jaxviz
from jaxviz._files import alone_at, file_name, printable, write_atomically
from jaxviz._types import Score
from jaxviz.attribution._integrated_gradients import WIDE
from jaxviz.cli._verbs import (
    UNREADABLE,
    arguments,
    command,
    digest,
    digest_of_network,
    documentation,
    each_of,
    failing,
    files,
)
from jaxviz.data._folder import check_writable


class Verb(NamedTuple):
    """A method, and what its maps are like."""

    method: Callable[..., Any]
    fine: bool = True  # bright pixels, not regions
    hides: bool = False  # it hides parts of the image, so that a class is scored by its probability
    copies: bool = False  # it evaluates many copies of an image, `batch_size` at once


VERBS = {
    "saliency": Verb(jaxviz.saliency),
    "gradient": Verb(jaxviz.gradient),
    "input-x-gradient": Verb(jaxviz.input_x_gradient),
    "integrated-gradients": Verb(jaxviz.integrated_gradients, copies=True),
    "smoothgrad": Verb(jaxviz.smoothgrad, copies=True),
    "guided": Verb(jaxviz.guided_backprop),
    "deconvnet": Verb(jaxviz.deconvnet),
    "lrp": Verb(jaxviz.lrp),
    "occlusion": Verb(jaxviz.occlusion, fine=False, hides=True, copies=True),
    "rise": Verb(jaxviz.rise, fine=False, hides=True, copies=True),
    "cam": Verb(jaxviz.grad_cam, fine=False),
    "guided-cam": Verb(jaxviz.guided_grad_cam),
}

# What a line of text can say, where the function takes any array.
_ANNOTATIONS = {"fill": str, "baseline": str, "noise": float, "keep": float, "window": int, "stride": int}
_REPLACEMENTS = ("fill", "baseline")
_WRITTEN = "Written as 0.5, as R,G,B such as 1,0,0, as the name of an image file, or as blur."

_Name = Annotated[str | None, tyro.conf.arg(metavar="NAME")]


def attribute(
    images: Annotated[tuple[Path, ...], tyro.conf.Positional, tyro.conf.arg(metavar="IMAGE [IMAGE ...]")],
    /,
    *,
    model: str = "efficientnet_lite0",
    layer: _Name = None,
    target: _Name = None,
    position: Annotated[tuple[int, int] | None, tyro.conf.arg(metavar="ROW COLUMN")] = None,
    out: Path = Path("out"),
    size: int = 224,
    seed: int = 0,
) -> None:
    """Explain images.

    Args:
        images: Files, or folders of files.
        model: A network that `jaxviz weights list` shows.
        layer: Explain a channel of this layer in place of a class; for cam and guided-cam, the layer whose maps are
            weighed (by default the last that has maps).
        target: A class by name or number (by default the one that the network ranks first); with --layer, a channel
            (by default the whole layer). For cam and guided-cam always a class.
        position: Row and column of one unit of the channel.
        out: Folder for the results. Of each image: the map over it (NAME-VERB.png), the map alone (NAME-VERB-map.png)
            and the numbers (NAME-VERB.npz: "map", "explained", and "settings" as JSON). What is there already, of the
            same image and settings, is not made again, so that after Ctrl-C the same command goes on where it was.
        size: Height and width in pixels to which images are resized and cut.
        seed: Of all randomness.
    """


def commands() -> dict[str, Callable[..., None]]:
    """Return the verbs as functions whose signatures tell tyro what they take."""
    return {name: _command(name, verb) for name, verb in VERBS.items()}


def _command(name: str, verb: Verb) -> Callable[..., None]:
    parameters = inspect.signature(verb.method).parameters
    idle = {"seed": "key" not in parameters, "position": "layer" in parameters, "batch_size": not verb.copies}
    shared = [p for p in inspect.signature(attribute).parameters.values() if not idle.get(p.name)]
    own = {
        p.name: p.replace(annotation=_ANNOTATIONS.get(p.name, p.annotation), default=_as_text(p))
        for p in parameters.values()
        if p.kind is p.KEYWORD_ONLY and p.name != "layer" and not idle.get(p.name)
    }

    def call(images: tuple[Path, ...], /, **options: Any) -> None:
        mine = {option: options.pop(option) for option in own}
        _attribute(name, verb, images, mine, **options)

    taken = [*shared, *own.values()]
    said = arguments(verb.method) | arguments(attribute)
    said |= {option: f"{said[option]} {_WRITTEN}" for option in _REPLACEMENTS if option in said}
    return command(name, call, taken, documentation(verb.method, [p.name for p in taken], said))


def _as_text(parameter: inspect.Parameter) -> Any:
    return str(parameter.default) if parameter.name in _REPLACEMENTS else parameter.default


def _attribute(
    name: str,
    verb: Verb,
    sources: Sequence[Path],
    options: dict[str, Any],
    *,
    model: str,
    layer: str | None,
    target: str | None,
    out: Path,
    size: int,
    position: tuple[int, int] | None = None,
    seed: int | None = None,
) -> None:
    check_writable(out)
    paths = files(sources, out)
    given = {name: _replacement(name, options[name], size) for name in _REPLACEMENTS if name in options}
    net, params = jaxviz.load(model)
    with _ended_by_interrupts():
        shape = jax.ShapeDtypeStruct((1, size, size, 3), jnp.float32)
        weighs = "layer" in inspect.signature(verb.method).parameters
        score, describe = _score(net, params, shape, verb, model, layer, target, position)
        if weighs:
            layer = layer or _last_maps(net, params, shape)
            given["layer"] = layer
        named = {"verb": name, "model": model, "layer": layer, "target": target, "position": position, "size": size}
        settings = named | {"seed": seed, "jaxviz": version("jaxviz-cnn")} | options | _digests(options)
        settings |= {"network": digest_of_network(net, params, size)}
        key = [] if seed is None else [jax.random.key(seed)]
        method = functools.partial(verb.method, score, params, *key, **options | given)

        def explain(path: Path) -> str:
            at = out / f"{file_name(path.stem)}-{name}"
            return _explain(path, at, method, describe, settings, fine=verb.fine)

        def tell(path: Path) -> None:
            print(f"{printable(str(path))}: {printable(explain(path))}", flush=True)

        def said(failed: int, total: int) -> str:
            others = f"; the others are in {out}" if failed < total else ""
            return f"{failed} of {total} images could not be explained, see above{others}"

        each_of([(path, tell if bad is None else failing(bad)) for path, bad in paths.items()], said=said)


@contextlib.contextmanager
def _ended_by_interrupts() -> Iterator[None]:
    """Let Ctrl-C end the process: Python's own handler would wait until a compiled loop is through.

    It does no harm, since files appear whole or not at all.
    """
    if signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
        yield  # whoever started this has it ignored, or handled otherwise
        return
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def _explain(
    path: Path,
    at: Path,
    method: Callable[[Any], Any],
    describe: Callable[[Any], str],
    settings: dict[str, Any],
    *,
    fine: bool,
) -> str:
    image = jaxviz.load_image(path, size=settings["size"])
    told = json.dumps(settings | {"image_sha256": digest(path)}, sort_keys=True)
    overlay, alone, numbers = (Path(f"{at}{ending}") for ending in (".png", "-map.png", ".npz"))
    if overlay.exists() and alone.exists() and _is_done(numbers, told):
        return "done before"
    gap = ""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "integrated_gradients: with")  # the gap is printed
        result = method(image[None])
    if isinstance(result, jaxviz.IntegratedGradients | jaxviz.Relevance):
        integrated = isinstance(result, jaxviz.IntegratedGradients)
        advice = " (more --steps make it smaller)" if integrated and float(result.gap[0]) > WIDE else ""
        gap = f", {'completeness' if integrated else 'conservation'} gap {float(result.gap[0]):.2%}{advice}"
        result = result.maps
    map, explained = result[0], describe(image[None])
    buffer = io.BytesIO()
    np.savez_compressed(buffer, map=np.asarray(map), explained=explained, settings=told)
    with alone_at(at, wait=True):  # or else two runs leave pictures of one with numbers of the other
        numbers.unlink(missing_ok=True)  # those of other settings, which would vouch for these pictures
        jaxviz.save_image(overlay, jaxviz.draw(map, over=image, fine=fine))
        jaxviz.save_image(alone, jaxviz.draw(map, fine=fine))
        write_atomically(numbers, buffer.getvalue())  # last: it says that all is there
    return f"{explained}{gap}, {overlay}"


def _is_done(path: Path, settings: str) -> bool:
    try:
        with path.open("rb") as file, np.load(file) as kept:
            return str(kept["settings"]) == settings and kept["map"].ndim >= 2
    except UNREADABLE:
        return False


def _digests(options: dict[str, Any]) -> dict[str, str]:
    """Return the digests of files that options name: the same name may stand for another picture tomorrow."""
    files = {option: Path(options[option]) for option in _REPLACEMENTS if option in options}
    return {f"{option}_sha256": digest(path) for option, path in files.items() if path.is_file()}


def _score(
    net: Any,
    params: Any,
    shape: Any,
    verb: Verb,
    model: str,
    layer: str | None,
    target: str | None,
    position: tuple[int, int] | None,
) -> tuple[Score, Callable[[Any], str]]:
    """Return the score that was asked for, and a function that says what it is for an image."""
    weighs = "layer" in inspect.signature(verb.method).parameters
    if layer is not None and not weighs:
        return _unit_score(net, layer, target, position)
    if position is not None:
        raise ValueError("--position: expected together with --layer and --target, since classes have none")
    outputs = jax.eval_shape(net, params, shape)
    if len(outputs.shape) != 2:
        advice = "choose another --model" if weighs else "say which --layer to explain, and which channel as --target"
        raise ValueError(f"{model} has no classes: {advice}")
    wanted = None if target is None else jaxviz.class_index(target)
    probabilities = jax.jit(lambda params, images: jax.nn.softmax(net(params, images)))

    def describe(images: Any) -> str:
        chances = probabilities(params, images)[0]
        index = int(jnp.argmax(chances)) if wanted is None else wanted
        return f"{jaxviz.class_names()[index]} ({chances[index]:.1%})"

    return (jaxviz.probability if verb.hides else jaxviz.logit)(net, wanted), describe


def _unit_score(
    net: Any, layer: str, target: str | None, position: tuple[int, int] | None
) -> tuple[Score, Callable[[Any], str]]:
    if target is None:
        if position is not None:
            raise ValueError(f"--position: expected together with --target, the number of a channel of {layer}")
        return jaxviz.energy(net, layer), lambda images: layer
    if not target.removeprefix("-").isdecimal():
        raise ValueError(f"--target: expected the number of a channel of {layer}, got {target!r}")
    where = f"channel {target} of {layer}"
    if position is None:
        return jaxviz.channel(net, layer, int(target)), lambda images: where
    return jaxviz.neuron(net, layer, int(target), position), lambda images: f"{where} at {position}"


def _last_maps(net: Any, params: Any, shape: Any) -> str:
    names = [name for name, value in jaxviz.layers(net, params, shape).items() if len(value.shape) == 4]
    if not names:
        raise ValueError("this network has no layer of image maps: Grad-CAM is not for it")
    return names[-1]


def _replacement(option: str, text: str, size: int) -> Any:
    """Return what --fill or --baseline says: "blur", a brightness, three numbers, or an image file."""
    if text == "blur":
        return text
    if Path(text).is_file():
        return jaxviz.load_image(text, size=size)
    with contextlib.suppress(ValueError):
        numbers = [float(part) for part in text.split(",")]
        if len(numbers) in (1, 3) and all(0 <= number <= 1 for number in numbers):
            return numbers[0] if len(numbers) == 1 else jnp.array(numbers)
    raise ValueError(
        f"--{option}: expected a brightness in [0, 1], three as R,G,B, the name of an image file, or blur, got {text!r}"
    )
