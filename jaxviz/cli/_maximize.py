"""What `jaxviz ascend|sheet|dream` do: images that units respond to more."""

import functools
import glob
import json
import operator
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import jaxviz
from jaxviz._extras import extra
from jaxviz._files import alone_at, file_name, plain, write_atomically
from jaxviz._options import check_positive
from jaxviz.cli._files import digest, files, make_each
from jaxviz.cli._models import Model, check_layers, load_model
from jaxviz.cli._own_models import is_own
from jaxviz.cli._runs import interrupts, read, save_as_it_comes, settings_of, stop
from jaxviz.cli._synthesis import Ascend, Dream, Sheet
from jaxviz.data._folder import check_writable
from jaxviz.image._checks import sides_of
from jaxviz.image._video import check_pyav
from jaxviz.synthesis._views import canvas

SHEET_SIZE = 96  # of images that are many, where the network has no size that it must have


def ascend(options: Ascend) -> None:
    """Find the image that a class, a channel or a layer responds to most."""
    check_writable(options.out)
    model = options.model or ("efficientnet_lite0" if options.layer is None else "vgg16_features")
    loaded = load_model(model, options.size, output=options.output)
    net, params = loaded.network
    score = _classes(options, loaded) if options.layer is None else _units(net, options.layer, options.target)
    loaded = loaded if options.start is not None else _as_units_see(loaded, options.size, score)
    how: dict[str, Any] = {"size": loaded.full_size, "tolerance": options.tolerance}
    if options.recipe is None:
        how |= {"steps": options.steps, "learning_rate": options.learning_rate}
    else:
        how |= jaxviz.recipe(options.recipe)
    if options.start is not None:
        how["start"] = loaded.read(options.start)
    ignored = () if options.recipe is None else ("steps", "learning_rate")  # the paper's are taken
    more = {"model": model, "network": loaded.digest(), "size": loaded.size}
    settings = settings_of(options, ignored=ignored, by=f"--recipe {options.recipe}", **more)
    run = functools.partial(jaxviz.ascend, score, params, jax.random.key(options.seed), **how)
    at = options.out / f"{file_name('-'.join([options.layer or model, *options.target]))}-ascend"
    print(save_as_it_comes(run, at, settings, options))


def _as_units_see(model: Model, asked: int | None, score: Any) -> Model:
    """Return the model with images as large as what the units see, where nobody says how large they are."""
    if asked is not None or (is_own(model.name) and model.network.size is not None):
        return model
    return model._replace(size=canvas(score, model.network.params, max(sides_of(model.size))))


def _classes(options: Ascend, model: Model) -> Any:
    """Return the scores of classes."""
    count = model.class_count("choose another --model, or say which --layer to maximize")
    if not options.target:
        raise ValueError("--target: expected a class, or several, by name or number")
    return jaxviz.logit(model.network.net, np.array([model.class_index(name, count) for name in options.target]))


def _channels(layer: str, target: Sequence[str]) -> np.ndarray:
    if not all(text.isdecimal() for text in target):
        raise ValueError(f"--target: expected numbers of channels of {layer}, got {' '.join(target)}")
    return np.array([int(text) for text in target])


def _units(net: Any, layer: str, target: Sequence[str]) -> Any:
    """Return a score for each channel, or for the layer."""
    return jaxviz.channel(net, layer, _channels(layer, target)) if target else jaxviz.energy(net, layer)


def _together(net: Any, layer: str, target: Sequence[str]) -> Any:
    """Return one score of several channels together, or of the layer."""
    each: list[Any] = [jaxviz.channel(net, layer, int(index)) for index in _channels(layer, target)]
    return functools.reduce(operator.add, each) if each else jaxviz.energy(net, layer)


def sheet(options: Sheet) -> None:
    """Find the image that each channel of a layer responds to most."""
    check_writable(options.out)
    model = load_model(options.model, options.size, output=options.output, default=SHEET_SIZE)
    check_layers(options, model, "layer")
    net, params = model.network
    model = _as_units_see(model, options.size, jaxviz.channel(net, options.layer, 0))
    settings = settings_of(options, network=model.digest(), size=model.size)
    channels = _channels(options.layer, options.target).tolist() if options.target else None
    how = {"layer": options.layer, "channels": channels, "size": model.full_size, "steps": options.steps}
    how["batch_size"] = options.batch_size

    def run(*, every: int, **more: Any) -> jaxviz.Sheet:
        return jaxviz.sheet(net, params, jax.random.key(options.seed), **how, **more)

    at = options.out / f"{file_name(options.layer)}-sheet"
    print(save_as_it_comes(run, at, settings, options, unit="channel"))


def dream(options: Dream) -> None:
    """Change images so that a layer sees more of what it sees in them."""
    guide = options.guide
    if guide is not None and options.target:
        raise ValueError("--guide and --target: expected one of them, since a guide is matched by the whole layer")
    if options.zoom < 0:
        raise ValueError(f"--zoom: expected a number of frames, got {options.zoom}")
    if options.fps:
        _check_video(options)
    paths = files(options.images, options.out)
    model = load_model(options.model, output=options.output)
    check_layers(options, model, "layer")
    net, params = model.network
    score = _together(net, options.layer, options.target)
    if guide is not None:
        score = jaxviz.resemblance(net, params, model.read(guide, longest=224)[None], layer=options.layer)
    settings = settings_of(options, network=model.digest())
    names = ("octaves", "octave_scale", "steps", "step_size", "jitter", "smoothing", "tile", "overlap")
    how = {name: getattr(options, name) for name in names}

    def make(path: Path) -> str:
        image = model.read(path, longest=options.size)[None]
        given = (score, params, jax.random.key(options.seed), image)
        at, told = options.out / f"{file_name(path.stem)}-dream", settings | {"image": digest(path)}
        if options.zoom:
            with alone_at(Path(f"{at}-frames")):
                made = _fall(*given, at, told, frames=options.zoom, **how)
                return f"{made}, {_video(at, options)}" if options.fps else made
        return save_as_it_comes(functools.partial(jaxviz.dream, *given, **how), at, told, options)

    make_each(make, paths)


def _check_video(options: Dream) -> None:
    """Raise ValueError before frames are made that cannot become a video."""
    check_positive("--fps", options.fps)
    if not options.zoom:
        raise ValueError("--fps: expected a number of frames as well, --zoom, of which the video is")
    check_pyav("--fps")


def _video(at: Path, options: Dream) -> str:
    """Write the frames of a zoom as a video; return its name."""
    frames = (jaxviz.load_image(f"{at}-{i:04d}.png") for i in range(options.zoom))
    jaxviz.save_video(f"{at}.mp4", frames, rate=options.fps)
    return f"{at}.mp4"


def _fall(
    score: Any, params: Any, key: Any, image: Any, at: Path, settings: dict[str, Any], *, frames: int, **how: Any
) -> str:
    """Write the frames of a zoom; a rerun with the same settings continues after the last."""
    with extra("cli"):
        from rich.console import Console

    last, told = Path(f"{at}-frames.npz"), json.dumps(settings, default=str)
    done, image = _last_frame(last, told, at, image)
    with interrupts() as interrupted, Console(stderr=True).status("Starting") as status:
        for frame in jaxviz.dream_zoom(score, params, key, image, frames=frames, first=done, **how):
            jaxviz.save_image(f"{at}-{done:04d}.png", frame[0])
            done += 1
            numbers = {"settings": told, "finished": False, "states": 2, "state_0": done, "state_1": np.asarray(frame)}
            write_atomically(last, functools.partial(np.savez, **numbers))
            status.update(plain(f"{at.name}: frame {done} of {frames} …"))
            if interrupted() and done < frames:
                break
    if done < frames:
        stop(f"Stopped after frame {done} of {frames}: the same command continues from there.")
    return f"{at}-0000.png to {at}-{frames - 1:04d}.png"


def _last_frame(last: Path, settings: str, at: Path, image: Any) -> tuple[int, Any]:
    """Return how many frames an earlier run has made, and the last of them: none, and the image, at the first run."""
    kept = read(last)
    if kept is None:
        return 0, image
    if kept.settings == settings:
        return int(kept.state[0]), jnp.asarray(kept.state[1])
    # Frames of a zoom with other settings would be taken for the last ones of this.
    for old in at.parent.glob(f"{glob.escape(at.name)}-[0-9][0-9][0-9][0-9].png"):
        old.unlink()
    return 0, image
