"""What the attribution verbs do: a map of each image, saved with its numbers, unless it was made before."""

import contextlib
import functools
import io
import json
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import jaxviz
from jaxviz._files import alone_at, file_name, printable, write_atomically
from jaxviz._types import Score
from jaxviz.attribution._grad_cam import last_layer
from jaxviz.attribution._integrated_gradients import WIDE
from jaxviz.cli._attribution import Attribution
from jaxviz.cli._files import digest, files, make_each
from jaxviz.cli._models import Model, load_model
from jaxviz.cli._runs import UNREADABLE, ended_by_interrupts, settings_of

_Describe = Callable[[Any], str]
"""Says what is explained in an image."""


def explain(options: Attribution) -> None:
    """Explain each image by the verb's method."""
    paths = files(options.images, options.out)
    own = options.own()
    model = load_model(options.model, options.size, output=options.output)
    own |= {name: _replacement(name, own[name], model) for name in ("fill", "baseline") if name in own}
    with ended_by_interrupts():
        score, describe = _score(options, model)
        if options.weighs:
            own["layer"] = options.layer or _last_layer(score, model)
        more = {"network": model.digest(), "layer": own.get("layer", options.layer), "size": model.size}
        settings = {"position": None, "seed": None} | settings_of(options, **more)
        key = [] if settings["seed"] is None else [jax.random.key(settings["seed"])]
        method = functools.partial(getattr(jaxviz, options.method), score, model.network.params, *key, **own)

        def make(path: Path) -> str:
            result = _explained(options, model, path, method, describe, settings)
            return f"{printable(str(path))}: {printable(result)}"

        def said(failed: int, total: int) -> str:
            others = f"; the others are in {options.out}" if failed < total else ""
            return f"{failed} of {total} images could not be explained, see above{others}"

        make_each(make, paths, said=said)


def _explained(
    options: Attribution,
    model: Model,
    path: Path,
    method: Callable[[Any], Any],
    describe: _Describe,
    settings: dict[str, Any],
) -> str:
    """Explain one image, save it, and return what is to be said of it."""
    at = options.out / f"{file_name(path.stem)}-{options.verb}"
    image = model.read(path)
    told = json.dumps(settings | {"image_sha256": digest(path)}, sort_keys=True)
    overlay, alone, numbers = (Path(f"{at}{ending}") for ending in (".png", "-map.png", ".npz"))
    if overlay.exists() and alone.exists() and _is_done(numbers, told):
        return "done before"
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "integrated_gradients: with")  # the gap is printed
        maps, gap = _without_gap(method(image[None]))
    map, explained = maps[0], describe(image[None])
    buffer = io.BytesIO()
    np.savez_compressed(buffer, map=np.asarray(map), explained=explained, settings=told)
    with alone_at(at, wait=True):  # or else two runs leave pictures of one with numbers of the other
        numbers.unlink(missing_ok=True)  # those of other settings, which would vouch for these pictures
        jaxviz.save_image(overlay, jaxviz.draw(map, over=image, fine=options.fine))
        jaxviz.save_image(alone, jaxviz.draw(map, fine=options.fine))
        write_atomically(numbers, buffer.getvalue())  # last: it says that all is there
    return f"{explained}{gap}, {overlay}"


def _without_gap(result: Any) -> tuple[jax.Array, str]:
    """Return the maps, and what is to be said of the gap where a method returns one with them."""
    if isinstance(result, jaxviz.Relevance):
        return result.maps, f", conservation gap {float(result.gap[0]):.2%}"
    if isinstance(result, jaxviz.IntegratedGradients):
        gap = float(result.gap[0])
        advice = " (more --steps make it smaller)" if gap > WIDE else ""
        return result.maps, f", completeness gap {gap:.2%}{advice}"
    return result, ""


def _is_done(path: Path, settings: str) -> bool:
    try:
        with path.open("rb") as file, np.load(file) as kept:
            return str(kept["settings"]) == settings and kept["map"].ndim >= 2
    except UNREADABLE:
        return False


def _score(options: Attribution, model: Model) -> tuple[Score, _Describe]:
    """Return the score that was asked for, and a function that says what it is for an image."""
    position = getattr(options, "position", None)
    if options.layer is not None and not options.weighs:
        return _unit_score(model.network.net, options.layer, options.target, position)
    if position is not None:
        raise ValueError("--position: expected together with --layer and --target, since classes have none")
    unit = "say which --layer to explain, and which channel as --target"
    count = model.class_count("choose another --model" if options.weighs else unit)
    wanted = None if options.target is None else model.class_index(options.target, count)
    net, params = model.network
    every = jaxviz.probability(net, jnp.arange(count)[None])
    probabilities = jax.jit(jaxviz.accelerate(lambda params, images: every(params, images)))

    def describe(images: Any) -> str:
        chances = probabilities(params, images)[0]
        index = int(jnp.argmax(chances)) if wanted is None else wanted
        return f"{model.class_name(index)} ({chances[index]:.1%})"

    return (jaxviz.probability if options.hides else jaxviz.logit)(net, wanted), describe


def _unit_score(net: Any, layer: str, target: str | None, position: tuple[int, int] | None) -> tuple[Score, _Describe]:
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


def _last_layer(score: Score, model: Model) -> str:
    layer = last_layer(score, model.network.params, model.shape)
    if layer is None:
        raise ValueError("this network has no layer of image maps or of tokens in a grid: Grad-CAM is not for it")
    return layer


def _replacement(option: str, text: str, model: Model) -> Any:
    """Return what --fill or --baseline says: "blur", a brightness, three numbers, or an image file."""
    if text == "blur":
        return text
    if Path(text).is_file():
        return model.read(text)
    with contextlib.suppress(ValueError):
        numbers = [float(part) for part in text.split(",")]
        if len(numbers) in (1, model.network.channels) and all(0 <= number <= 1 for number in numbers):
            return numbers[0] if len(numbers) == 1 else jnp.array(numbers)
    raise ValueError(
        f"--{option}: expected a brightness in [0, 1], three as R,G,B, the name of an image file, or blur, got {text!r}"
    )
