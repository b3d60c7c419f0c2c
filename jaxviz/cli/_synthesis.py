"""The synthesis methods as verbs of the command line: what they make is saved as it comes, and can be gone on with."""

import functools
import glob
import inspect
import json
import operator
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
import tyro

import jaxviz
from jaxviz._files import alone_at, file_name, plain, write_atomically
from jaxviz.cli._runs import read, save_as_it_comes
from jaxviz.cli._verbs import (
    arguments,
    command,
    digest,
    digest_of_network,
    documentation,
    each_of,
    failing,
    files,
    interrupts,
)
from jaxviz.data._folder import check_writable
from jaxviz.image._checks import ImageError, sides_of
from jaxviz.synthesis._minimize import Synthesis
from jaxviz.synthesis._recipes import RECIPES

_Name = Annotated[str | None, tyro.conf.arg(metavar="NAME")]
_Names = Annotated[tuple[str, ...], tyro.conf.arg(metavar="NAME [NAME ...]")]
_Paths = Annotated[tuple[Path, ...], tyro.conf.Positional, tyro.conf.arg(metavar="IMAGE [IMAGE ...]")]
_File = Annotated[Path | None, tyro.conf.arg(metavar="FILE")]


def _common(
    *,
    model: str = "vgg16_features",
    layer: str = "relu5_1",
    target: _Names = (),
    out: Path = Path("out"),
    seed: int = 0,
    every: int = 32,
    snapshots: bool = False,
    resume: bool = False,
) -> None:
    """Hold the options that all verbs share, and what is said of them.

    Args:
        model: A network that `jaxviz weights list` shows.
        layer: Whose features, or units.
        target: Channels of the layer by number; by default the whole layer.
        out: Folder for the results: the picture (NAME-VERB.png) and the numbers (NAME-VERB.npz). What was finished with
            the same settings is not made again.
        seed: Of all randomness.
        every: Save the picture and the state every so many steps; with --snapshots, keep a copy of each picture.
        snapshots: Keep the pictures on the way, as NAME-VERB-STEP.png.
        resume: Go on with a run that was stopped, by Ctrl-C or otherwise, from what it saved last.
    """


def _options(method: Callable[..., Any], *names: str, **annotations: Any) -> dict[str, inspect.Parameter]:
    """Return some keyword options of a method as a command line can give them."""
    found = inspect.signature(method).parameters
    return {name: found[name].replace(annotation=annotations.get(name, found[name].annotation)) for name in names}


def _opened(sources: Sequence[Path], out: Path) -> dict[Path, ImageError | None]:
    """Return the images and what is wrong with any, before a network is loaded."""
    check_writable(out)
    return files(sources, out)


def _each(make: Callable[[Path], str], paths: dict[Path, ImageError | None]) -> None:
    """Make something of each image; one that cannot be read does not keep the others from being made."""
    tell = lambda path: print(make(path), flush=True)
    each_of([(path, tell if bad is None else failing(bad)) for path, bad in paths.items()])


def _saved(run: Callable[..., Synthesis], at: Path, settings: dict[str, Any], **options: Any) -> str:
    """Run a synthesis and save it as it comes, with no other run that saves to the same files."""
    check_writable(at.parent)
    with alone_at(at):
        return save_as_it_comes(run, at, settings, **options)


def _channels(layer: str, target: Sequence[str]) -> np.ndarray:
    if not all(text.isdecimal() for text in target):
        raise ValueError(f"--target: expected numbers of channels of {layer}, got {' '.join(target)}")
    return np.array([int(text) for text in target])


def _units(net: Any, layer: str, target: Sequence[str]) -> Any:
    return jaxviz.channel(net, layer, _channels(layer, target)) if target else jaxviz.energy(net, layer)


def _all_of(net: Any, layer: str, target: Sequence[str]) -> Any:
    """Return one score of several channels together."""
    each: list[Any] = [jaxviz.channel(net, layer, int(index)) for index in _channels(layer, target)]
    return functools.reduce(operator.add, each) if each else jaxviz.energy(net, layer)


# The verbs


def ascend(
    *,
    layer: _Name = None,
    target: _Names = (),
    recipe: Annotated[str | None, tyro.conf.arg(metavar="|".join(RECIPES))] = None,
    start: _File = None,
    model: _Name = None,
    out: Path,
    seed: int,
    every: int,
    snapshots: bool,
    resume: bool,
    size: int,
    **options: Any,
) -> None:
    """Find the image that a class, a channel or a layer responds to most.

    Args:
        layer: Maximise a channel of this layer in place of a class.
        target: Classes by name or number; with --layer, channels by number (by default the whole layer). Several give
            an image each.
        recipe: The options of a paper; --steps and --learning-rate are then the paper's.
        start: An image to start from, in place of noise.
        model: A network that `jaxviz weights list` shows; by default efficientnet_lite0 for classes, vgg16_features for
            layers.
        size: Height and width in pixels.
    """
    check_writable(out)
    model = model or ("efficientnet_lite0" if layer is None else "vgg16_features")
    net, params = jaxviz.load(model)
    wanted = {**options, "size": size}
    if recipe is not None:
        wanted = {"size": size, "tolerance": options["tolerance"], **jaxviz.recipe(recipe)}
    if start is not None:
        wanted["start"] = jaxviz.load_image(start, size=size)
    sides_of(size)
    if layer is None:
        outputs = jax.eval_shape(net, params, jax.ShapeDtypeStruct((1, size, size, 3), jnp.float32))
        if len(outputs.shape) != 2:
            raise ValueError(f"{model} has no classes: choose another --model, or say which --layer to maximise")
        if not target:
            raise ValueError("--target: expected a class, or several, by name or number")
        score = jaxviz.logit(net, np.array([jaxviz.class_index(name) for name in target]))
    else:
        score = _units(net, layer, target)
    settings = {"verb": "ascend", "model": model, "layer": layer, "target": target, "recipe": recipe, "seed": seed}
    settings |= {"network": digest_of_network(net, params), "size": size, "start": start and digest(start)} | (
        options if recipe is None else {"tolerance": options["tolerance"]}
    )
    run = functools.partial(jaxviz.ascend, score, params, jax.random.key(seed), **wanted)
    name = "-".join([layer or model, *target])
    at = out / f"{file_name(name)}-ascend"
    print(_saved(run, at, settings, every=every, snapshots=snapshots, resume=resume))


def sheet(
    *,
    model: str,
    layer: str,
    target: _Names = (),
    out: Path,
    seed: int,
    resume: bool,
    **options: Any,
) -> None:
    """Find the image that each channel of a layer responds to most, for all of them.

    Args:
        target: Channels of the layer by number; by default all.
    """
    check_writable(out)
    net, params = jaxviz.load(model)
    settings = {"verb": "sheet", "model": model, "layer": layer, "target": target, "seed": seed} | options
    settings |= {"network": digest_of_network(net, params)}
    channels = _channels(layer, target).tolist() if target else None

    def run(*, every: int, **more: Any) -> Synthesis:
        return jaxviz.sheet(net, params, jax.random.key(seed), layer=layer, channels=channels, **options, **more)

    print(_saved(run, out / f"{file_name(layer)}-sheet", settings, every=1, resume=resume, unit="channel"))


def dream(
    images: _Paths,
    /,
    *,
    model: str,
    layer: str,
    target: _Names,
    guide: _File = None,
    size: int = 512,
    zoom: int = 0,
    out: Path,
    seed: int,
    every: int,
    snapshots: bool,
    resume: bool,
    **options: Any,
) -> None:
    """Change images so that a layer sees more of what it sees in them.

    Args:
        images: Files, or folders of files.
        guide: Dream of what is in this image, in place of whatever the layer sees.
        size: Longer side in pixels to which larger images are reduced.
        zoom: Make so many frames of a fall into the dream, NAME-dream-FRAME.png; a rerun goes on after the last.
    """
    if guide is not None and target:
        raise ValueError("--guide and --target: expected one of them, since a guide is matched by the whole layer")
    if zoom < 0:
        raise ValueError(f"--zoom: expected a number of frames, got {zoom}")
    paths = _opened(images, out)
    net, params = jaxviz.load(model)
    score = _all_of(net, layer, target)
    if guide is not None:
        score = jaxviz.resemblance(net, params, jaxviz.load_image(guide, longest=224)[None], layer=layer)
    settings = {"verb": "dream", "model": model, "layer": layer, "target": target, "seed": seed, "size": size}
    settings |= {"network": digest_of_network(net, params), "guide": guide and digest(guide)} | options

    def make(path: Path) -> str:
        image = jaxviz.load_image(path, longest=size)[None]
        at, told = out / f"{file_name(path.stem)}-dream", settings | {"image": digest(path)}
        if zoom:
            with alone_at(Path(f"{at}-frames")):
                return _fall(score, params, jax.random.key(seed), image, at, told, frames=zoom, **options)
        run = functools.partial(jaxviz.dream, score, params, jax.random.key(seed), image, **options)
        return _saved(run, at, told, every=every, snapshots=snapshots, resume=resume)

    _each(make, paths)


def _fall(
    score: Any, params: Any, key: Any, image: Any, at: Path, settings: dict[str, Any], *, frames: int, **options: Any
) -> str:
    """Write the frames of a zoom; a rerun with the same settings goes on after the last."""
    from rich.console import Console

    last, told = Path(f"{at}-frames.npz"), json.dumps(settings | {"jaxviz": version("jaxviz-cnn")}, default=str)
    kept, done = read(last), 0
    if kept is not None and kept.settings == told:
        done, image = int(kept.state[0]), jnp.asarray(kept.state[1])
    elif kept is not None:  # frames of a zoom with other settings would be taken for the last ones of this
        for old in at.parent.glob(f"{glob.escape(at.name)}-[0-9][0-9][0-9][0-9].png"):
            old.unlink()
    with interrupts() as interrupted, Console(stderr=True).status("Starting") as status:
        for frame in jaxviz.dream_zoom(score, params, key, image, frames=frames, first=done, **options):
            jaxviz.save_image(f"{at}-{done:04d}.png", frame[0])
            done += 1
            numbers = {"settings": told, "finished": False, "states": 2, "state_0": done, "state_1": np.asarray(frame)}
            write_atomically(last, functools.partial(np.savez, **numbers))
            status.update(plain(f"{at.name}: frame {done} of {frames} …"))
            if interrupted() and done < frames:
                break
    if done < frames:
        print(f"Stopped after frame {done} of {frames}: the same command goes on from there.")
        raise SystemExit(130)
    return f"{at}-0000.png to {at}-{frames - 1:04d}.png"


def invert(
    images: _Paths,
    /,
    *,
    model: str,
    layer: str,
    size: int = 224,
    out: Path,
    seed: int,
    every: int,
    snapshots: bool,
    resume: bool,
    **options: Any,
) -> None:
    """Find an image that has the same features as another: what a layer has kept of it.

    Args:
        images: Files, or folders of files.
        size: Height and width in pixels to which images are resized and cut.
    """
    paths = _opened(images, out)
    net, params = jaxviz.load(model)
    settings = {"verb": "invert", "model": model, "layer": layer, "seed": seed, "size": size} | options
    settings |= {"network": digest_of_network(net, params)}

    def make(path: Path) -> str:
        image = jaxviz.load_image(path, size=size)[None]
        run = functools.partial(jaxviz.invert, net, params, jax.random.key(seed), image, layer=layer, **options)
        at, told = out / f"{file_name(f'{path.stem}-{layer}')}-invert", settings | {"image": digest(path)}
        return _saved(run, at, told, every=every, snapshots=snapshots, resume=resume)

    _each(make, paths)


def texture(
    images: _Paths,
    /,
    *,
    method: Literal["gatys", "efros-leung"] = "gatys",
    sample: int = 256,
    window: int = 11,
    model: str,
    size: int | None,
    layers: _Names,
    out: Path,
    seed: int,
    every: int,
    snapshots: bool,
    resume: bool,
    **options: Any,
) -> None:
    """Make an image of the same texture as a sample, of any size.

    Args:
        images: The samples: files, or folders of files.
        method: Gram matrices of features (gatys), or the sample's own pixels, one by one (efros-leung).
        sample: Longer side in pixels to which larger samples are reduced.
        window: Side in pixels of what efros-leung compares.
        size: Height and width in pixels; by default the sample's, 128 for efros-leung.
        layers: Whose Gram matrices, all of equal weight.
        optimizer: The optimizer.
    """
    paths = _opened(images, out)
    settings = {"verb": "texture", "method": method, "model": model, "layers": layers, "seed": seed, "size": size}
    settings |= {"sample": sample} | ({"window": window} if method == "efros-leung" else options)
    key = jax.random.key(seed)

    def make(path: Path) -> str:
        image = jaxviz.load_image(path, longest=sample)
        at, told = out / f"{file_name(path.stem)}-texture", settings | {"image": digest(path)}
        if method == "efros-leung":
            run = functools.partial(_grow, key, image, size=128 if size is None else size, window=window)
        else:
            net, params = jaxviz.load(model)
            told |= {"network": digest_of_network(net, params)}
            run = functools.partial(jaxviz.texture, net, params, key, image, layers=layers, size=size, **options)
        return _saved(run, at, told, every=every, snapshots=snapshots, resume=resume)

    _each(make, paths)


def _grow(key: Any, image: Any, *, size: int, window: int, callback: Callable[[Synthesis], Any], **_: Any) -> Synthesis:
    """Run `efros_leung` as if it were an optimization of one step."""
    made = jaxviz.efros_leung(key, image, size=size, window=window)
    found = Synthesis(made[None], jnp.zeros(1), [], True)
    callback(found)
    return found


def style(
    content: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="CONTENT")],
    styles: Annotated[tuple[Path, ...], tyro.conf.Positional, tyro.conf.arg(metavar="STYLE [STYLE ...]")],
    /,
    *,
    size: int = 512,
    style_weights: Annotated[tuple[float, ...], tyro.conf.arg(metavar="FLOAT [FLOAT ...]")] = (20.0,),
    masks: Annotated[tuple[Path, ...], tyro.conf.arg(metavar="FILE [FILE ...]")] = (),
    style_masks: Annotated[tuple[Path, ...], tyro.conf.arg(metavar="FILE [FILE ...]")] = (),
    start: str = "content",
    sweep: Annotated[tuple[float, ...], tyro.conf.arg(metavar="FLOAT [FLOAT ...]")] = (),
    sweep_size: Annotated[tuple[float, ...], tyro.conf.arg(metavar="FLOAT [FLOAT ...]")] = (),
    model: str,
    out: Path,
    seed: int,
    every: int,
    snapshots: bool,
    resume: bool,
    **options: Any,
) -> None:
    """Show what one image shows in the manner of another, or of several.

    Args:
        content: The image to show.
        styles: The images whose manner it is shown in.
        size: Longer side in pixels to which the content is reduced.
        style_weights: Of the relative error of Gram matrices; one for each style, or one that they share.
        masks: For each style an image of the content's size, white where it belongs.
        style_masks: For each style an image of its own size, white where it counts.
        start: content, noise, style or the name of an image file.
        sweep: Make one image for each of these style weights, and a row of them.
        sweep_size: Make one image for each of these style sizes, and a row of them.
        content_layers: Whose features, all of equal weight.
        style_layers: Whose Gram matrices, all of equal weight.
        optimizer: The optimizer.
    """
    if sweep and sweep_size:
        raise ValueError("--sweep and --sweep-size: expected one of them")
    check_writable(out)
    net, params = jaxviz.load(model)
    shown, manners = jaxviz.load_image(content, longest=size), [jaxviz.load_image(path) for path in styles]
    weights = style_weights[0] if len(style_weights) == 1 else list(style_weights)
    given: dict[str, Any] = {"style_weights": weights, "start": start}
    if Path(start).is_file():
        given["start"] = jnp.clip(jaxviz.resize(jaxviz.load_image(start), (shown.shape[0], shown.shape[1])), 0, 1)
    for name, paths, images in (("masks", masks, [shown] * len(masks)), ("style_masks", style_masks, manners)):
        if paths and len(paths) != len(manners):
            option = name.replace("_", "-")
            raise ValueError(f"--{option}: expected one for each of {len(manners)} styles, got {len(paths)}")
        if paths:
            given[name] = [_mask(path, image.shape[:2]) for path, image in zip(paths, images, strict=True)]
    settings = {"verb": "style", "model": model, "seed": seed, "size": size, "style_weights": style_weights}
    settings |= {"content": digest(content), "styles": [digest(path) for path in styles]} | options
    settings |= {"start": digest(Path(start)) if Path(start).is_file() else start}
    settings |= {"network": digest_of_network(net, params)}
    settings |= {"masks": [digest(path) for path in masks], "style_masks": [digest(path) for path in style_masks]}
    at = out / f"{file_name('-'.join(path.stem for path in (content, *styles)))}-style"
    run = functools.partial(jaxviz.stylize, net, params, jax.random.key(seed), shown, manners, **options | given)
    saving = {"every": every, "snapshots": snapshots, "resume": resume}
    option = "style_weights" if sweep else "style_size"
    for value in sweep or sweep_size:
        each = functools.partial(run, **{option: value})
        print(_saved(each, Path(f"{at}-{value:g}"), settings | {option: value}, **saving), flush=True)
    if not (sweep or sweep_size):
        print(_saved(run, at, settings, **saving))
        return
    row = [jaxviz.load_image(f"{at}-{value:g}.png") for value in sweep or sweep_size]
    jaxviz.save_image(f"{at}-sweep.png", jaxviz.montage(row, columns=len(row)))
    print(f"{at}-sweep.png: {option} {', '.join(f'{value:g}' for value in sweep or sweep_size)}")


def _mask(path: Path, size: tuple[int, ...]) -> jax.Array:
    """Return a picture's brightness, at a size."""
    return jnp.clip(jaxviz.resize(jaxviz.load_image(path), (size[0], size[1])), 0, 1).mean(-1)


_OPTIMIZER = Literal["lbfgs", "adam"]
_RUN = ("steps", "smoothness", "optimizer", "learning_rate", "tolerance")

VERBS: dict[str, tuple[Callable[..., None], Callable[..., Any], dict[str, inspect.Parameter]]] = {
    "ascend": (ascend, jaxviz.ascend, _options(jaxviz.ascend, "size", "steps", "learning_rate", "tolerance", size=int)),
    "sheet": (sheet, jaxviz.sheet, _options(jaxviz.sheet, "size", "steps", "batch_size")),
    "dream": (dream, jaxviz.dream, _options(jaxviz.dream, "octaves", "octave_scale", "steps", "step_size", "jitter")),
    "invert": (invert, jaxviz.invert, _options(jaxviz.invert, "steps", "smoothness", "tolerance", smoothness=float)),
    "texture": (
        texture,
        jaxviz.texture,
        _options(
            jaxviz.texture, "layers", "size", "octaves", *_RUN, layers=_Names, size=int | None, smoothness=float,
            optimizer=_OPTIMIZER,
        ),
    ),
    "style": (
        style,
        jaxviz.stylize,
        _options(
            jaxviz.stylize, "content_weight", "content_layers", "style_layers", "style_size", "colors", "octaves",
            *_RUN, content_weight=float, content_layers=_Names, style_layers=_Names, smoothness=float,
            optimizer=_OPTIMIZER,
        ),
    ),
}  # fmt: skip


def commands() -> dict[str, Callable[..., None]]:
    """Return the verbs as functions whose signatures tell tyro what they take."""
    return {name: _command(name, *verb) for name, verb in VERBS.items()}


def _command(
    name: str, call: Callable[..., None], method: Callable[..., Any], own: dict[str, inspect.Parameter]
) -> Callable[..., None]:
    """Return a verb: its own options with their defaults, then the method's, then those that all share."""
    shared = inspect.signature(_common).parameters
    taken = inspect.signature(inspect.unwrap(call)).parameters
    defaults = {name: p for name, p in taken.items() if p.kind is not p.VAR_KEYWORD}
    merged = {n: own.get(n) or shared.get(n) or p if p.default is p.empty and p.kind is p.KEYWORD_ONLY else p
              for n, p in defaults.items()}  # fmt: skip
    merged |= {n: p for n, p in own.items() if n not in merged}
    parameters = sorted(merged.values(), key=lambda p: p.kind)
    said = arguments(method) | arguments(_common) | arguments(call)
    return command(name, call, parameters, documentation(method, [p.name for p in parameters], said))
