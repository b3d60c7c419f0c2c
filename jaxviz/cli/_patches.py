"""What `jaxviz patches` does: the patches that each channel responds to most, from a run that can be stopped."""

import io
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import jaxviz
from jaxviz._files import alone_at, file_name, write_atomically
from jaxviz.activation._patches import OtherRunError
from jaxviz.cli._datasets import Patches
from jaxviz.cli._features import Pictures, list_skipped, listed_below
from jaxviz.cli._models import Model, check_layers, load_model
from jaxviz.cli._runs import UNREADABLE, interrupts, settings_of, stop
from jaxviz.data._folder import check_apart, check_writable
from jaxviz.data._source import Source, open_source
from jaxviz.program._digest import digest_of


def patches(options: Patches) -> None:
    """Find the patches of each channel, or what is new among them, and show those of some channels."""
    check_apart(Path(options.source), options.out, recursive=True)
    check_writable(options.out)
    with alone_at(options.out / "patches"):  # whose state another run with other settings would replace
        model = load_model(options.model, options.size, output=options.output)
        check_layers(options, model, "layer")
        shapes = model.layers()
        for name in set(options.layer) & set(shapes):  # others are for top_patches to complain about
            _check_channels(name, options.target, shapes[name].shape[-1])
        opened = open_source(options.source)
        found = _found(options, model, opened)
        total = len(opened.ids)
        if found.seen < total:
            stop(f"Stopped after {found.seen} of {total} images. The same command continues from there.")
        shown = {
            name: _show(options, name, of_layer, Pictures(opened), model.size)
            for name, of_layer in found.layers.items()
        }
        net, params = model.network
        how: dict[str, Any] = {"channels": shown, "beside": _BESIDE[options.beside], "size": model.size}
        print(jaxviz.patches_page(net, params, found, opened, options.out / "patches.html", **how))
        list_skipped(found.skipped)


def _found(options: Patches, model: Model, source: Source) -> jaxviz.TopPatches:
    """Look through the source, from where an earlier run of the same settings was."""
    kept = options.out / "patches-state.npz"
    net, params = model.network
    settings = json.dumps(settings_of(options, params=digest_of(params), size=model.size), sort_keys=True)
    how: dict[str, Any] = {"layer": options.layer, "k": options.k, "size": model.size}
    how["batch_size"] = options.batch_size
    with interrupts() as interrupted, listed_below(), jaxviz.ProgressBar(always=True) as bar:
        how["callback"] = _follow(kept, settings, len(source.ids), interrupted, bar)
        try:
            return jaxviz.top_patches(net, params, source, resume=_read_state(kept, settings), **how)
        except OtherRunError as error:
            print(f"{error}; so it starts over", flush=True)
            return jaxviz.top_patches(net, params, source, **how)


def _follow(
    kept: Path, settings: str, total: int, interrupted: Callable[[], bool], bar: jaxviz.ProgressBar
) -> Callable[[jaxviz.TopPatches], bool]:
    """Return what tells how far a run is, saves it, and ends it when it is interrupted."""
    due = 0.0

    def watch(found: jaxviz.TopPatches) -> bool:
        nonlocal due
        stop, now = interrupted(), time.perf_counter()
        if stop or now >= due or found.seen == total:
            _write_state(kept, found.state, settings)
            due = time.perf_counter() + 20 * (time.perf_counter() - now)  # names of millions of images take a while
        bar(found)
        return stop

    return watch


_BESIDE = {
    "none": None,
    "guided": jaxviz.guided_backprop,
    "deconvnet": jaxviz.deconvnet,
    "gradient": jaxviz.gradient,
}


def _show(
    options: Patches, name: str, found: jaxviz.Patches, picture: Pictures, size: int | tuple[int, int]
) -> list[int]:
    """Save the patches of a layer, and a picture of some channels'; return which."""
    alive = np.flatnonzero(found.values[:, 0] > 0)
    some = np.random.default_rng(options.seed).choice(alive, min(9, len(alive)), replace=False)
    chosen = [channel % len(found.values) for channel in options.target] or sorted(some.tolist())
    crops = [crop for channel in chosen for crop in _crops(found, channel, picture, size)]
    at = options.out / f"{file_name(name)}-patches.png"
    if crops:
        jaxviz.save_image(at, jaxviz.montage(crops, columns=options.k))
    _save(at.with_suffix(".npz"), found._asdict() | {"ids": np.array(found.ids)})
    print(f"{at}: channels {', '.join(map(str, chosen)) or 'none, for none responds'}")
    return chosen


def _crops(found: jaxviz.Patches, channel: int, picture: Pictures, size: int | tuple[int, int]) -> list[jax.Array]:
    crops = []
    for name, (top, left, bottom, right) in zip(found.ids[channel], found.boxes[channel], strict=True):
        if not name:  # there are fewer images than patches
            crops.append(jnp.ones((1, 1, 3)))
            continue
        crop = picture(name, size)[top:bottom, left:right]
        times = max(1, 64 // max(crop.shape))
        crops.append(jnp.repeat(jnp.repeat(crop, times, axis=0), times, axis=1))
    return crops


def _check_channels(layer: str, target: tuple[int, ...], channels: int) -> None:
    unknown = [channel for channel in target if not -channels <= channel < channels]
    if unknown:
        raise ValueError(
            f"--target: expected channels of {layer}, 0 to {channels - 1}, or -{channels} to -1 from the end, "
            f"got {unknown}"
        )


def _save(path: Path, arrays: dict[str, Any]) -> None:
    write_atomically(path, lambda file: np.savez(file, **arrays))


def _write_state(path: Path, state: dict[str, Any], settings: str) -> None:
    arrays = {f"{name}/{i}": np.asarray(x) for name, best in state["best"].items() for i, x in enumerate(best)}
    rest = {name: value for name, value in state.items() if name != "best"}
    rest["ids"] = rest["ids"][: rest["seen"]]
    _save(path, arrays | {"rest": json.dumps(rest), "settings": settings})


def _read_state(path: Path, settings: str) -> dict[str, Any] | None:
    """Return what a run with the same settings kept; None if there is none to be read."""
    try:
        with np.load(io.BytesIO(path.read_bytes())) as kept:
            rest = json.loads(str(kept["rest"]))
            if str(kept["settings"]) != settings:
                return None
            best = {name: tuple(kept[f"{name}/{i}"] for i in range(3)) for name in json.loads(settings)["layer"]}
            return rest | {"best": best}
    except UNREADABLE:
        return None
