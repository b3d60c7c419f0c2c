"""Runs of the command line: what they make is saved as it comes, they can be stopped, and resumed later."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import signal
import zipfile
import zlib
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, NoReturn

import jax
import numpy as np

import jaxviz
from jaxviz._files import alone_at, write_atomically
from jaxviz.cli._files import digest
from jaxviz.cli._options import Run, Steps, Verb
from jaxviz.data._folder import check_writable

if TYPE_CHECKING:  # explaining an image does without what makes images
    _Found = jaxviz.Synthesis | jaxviz.Sheet

UNREADABLE = (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error)
"""What reading an .npz raises if there is none, or one that was cut short or is of something else."""

_OF_NETWORK = (
    "; the network is another one when other weights were imported under its name or its file has changed, and may be "
    "when JAX has another version"
)


# Which run it is


def settings_of(options: Verb, *, ignored: Collection[str] = (), by: str = "", **more: Any) -> dict[str, Any]:
    """Return what decides whether two runs make the same: options, files by their content, and the version.

    Options that another one, `by`, makes the run ignore decide nothing; given a value, they are refused.
    """
    assert dataclasses.is_dataclass(options)
    fields = [field for field in dataclasses.fields(options) if field.metadata.get("setting", True)]
    for field in fields:
        if field.name in ignored and getattr(options, field.name) != field.default:
            raise ValueError(f"--{field.name.replace('_', '-')}: expected none beside {by}, which would ignore it")
    names = [field.name for field in fields if field.name not in ignored]
    values = {name: _by_content(getattr(options, name)) for name in names}
    return {"verb": options.verb, "jaxviz": jaxviz.__version__} | values | _texts_by_content(values) | more


def _by_content(value: Any) -> Any:
    """Return digests for paths: the same name may stand for another picture tomorrow."""
    if isinstance(value, Path):
        return digest(value)
    if isinstance(value, tuple):
        return [_by_content(each) for each in value]
    return value


def _texts_by_content(values: dict[str, Any]) -> dict[str, str]:
    """Return digests of files that are named where something else may be said too."""
    texts = {name: values.get(name) for name in ("fill", "baseline", "start")}
    return {f"{name}_sha256": digest(Path(text)) for name, text in texts.items() if text and Path(text).is_file()}


# How it is stopped


@contextlib.contextmanager
def interrupts() -> Iterator[Callable[[], bool]]:
    """Let the first Ctrl-C end the run after the steps it is at, and a second one end it at once."""
    asked: list[int] = []

    def ask(number: int, frame: Any) -> None:
        asked.append(number)
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        os.write(2, b"\nStopping; Ctrl-C again ends at once, with what was saved last.\n")

    before = signal.getsignal(signal.SIGINT)
    if before is signal.default_int_handler:  # otherwise whoever started this has it ignored, or handled otherwise
        signal.signal(signal.SIGINT, ask)
    try:
        yield lambda: bool(asked)
    finally:
        signal.signal(signal.SIGINT, before)


@contextlib.contextmanager
def ended_by_interrupts() -> Iterator[None]:
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


def stop(line: str) -> NoReturn:
    """End the command as one that was interrupted."""
    print(line)
    raise SystemExit(130)


# What it saves


class Kept(NamedTuple):
    """What a run saved."""

    settings: str
    finished: bool
    state: list[np.ndarray]


def read(path: Path) -> Kept | None:
    """Return what a run saved; None if there is nothing, or nothing that can be read."""
    try:
        with path.open("rb") as file, np.load(file) as saved:
            state = [saved[f"state_{i}"] for i in range(int(saved["states"]))]
            return Kept(str(saved["settings"]), bool(saved["finished"]), state)
    except UNREADABLE:
        return None


def _save(at: Path, found: _Found, settings: str) -> None:
    """Write the picture, then the numbers: the images as they are, the losses, and until it is done, the state."""
    state = [] if found.finished else [np.asarray(leaf) for leaf in found.state]
    numbers = {
        "images": np.asarray(found.images),
        "losses": np.asarray(found.losses),
        "settings": settings,
        "finished": found.finished,
        "states": len(state),
    }
    numbers |= {f"state_{i}": leaf for i, leaf in enumerate(state)}
    if len(found.images):  # of a sheet, none may be done
        jaxviz.save_image(f"{at}.png", _picture(found))
    write_atomically(Path(f"{at}.npz"), lambda file: np.savez(file, **numbers))


def _picture(found: _Found) -> jax.Array:
    return found.images[0] if len(found.images) == 1 else jaxviz.montage(found.images)


def _to_resume(at: Path, settings: str) -> list[np.ndarray] | None:
    kept = read(Path(f"{at}.npz"))
    if kept is None:
        return None
    if kept.settings != settings:
        before, now = json.loads(kept.settings), json.loads(settings)
        if "network" in now and "network" not in before:
            raise ValueError(
                f"{at}.npz was saved by an earlier version of jaxviz, which did not keep what network it is of: start "
                "over without --resume"
            )
        changed = sorted(name for name in before | now if before.get(name) != now.get(name))
        raise ValueError(
            f"{at}.npz is of a run with another {', '.join(changed)}: give the same options to resume it, or start "
            f"over without --resume{_OF_NETWORK if 'network' in changed else ''}"
        )
    return kept.state or None


@dataclasses.dataclass
class _Follow:
    """Follows a run: tells how far it is, saves it, and ends it when it is interrupted."""

    at: Path
    settings: str
    every: int
    snapshots: bool
    fresh: bool  # it does not resume what is saved
    interrupted: Callable[[], bool]
    tell: Callable[[Any], None]
    saved: int = 0

    def __call__(self, found: _Found) -> bool:
        taken, stop = len(found.losses), self.interrupted()
        self.tell(found)
        if stop or found.finished or taken - self.saved >= self.every:
            if self.fresh:  # the numbers of another run would vouch for this picture
                Path(f"{self.at}.npz").unlink(missing_ok=True)
                self.fresh = False
            _save(self.at, found, self.settings)
            self.saved = taken
            if self.snapshots and not stop:
                jaxviz.save_image(f"{self.at}-{taken:05d}.png", _picture(found))
        return stop


def save_as_it_comes(
    run: Callable[..., _Found], at: Path, settings: dict[str, Any], options: Run, *, unit: str = "step"
) -> str:
    """Run a synthesis and save it as it comes, at files that no other run saves to; return what became of it."""
    check_writable(at.parent)
    every, snapshots = (options.every, options.snapshots) if isinstance(options, Steps) else (1, False)
    if settings.get("tolerance") is not None:
        settings = settings | {"every": every}  # when a run stalls is looked at so often
    told = json.dumps(settings, sort_keys=True, default=str)
    with alone_at(at):
        if every < 1:
            raise ValueError(f"--every: expected 1 step or more, got {every}")
        kept = read(Path(f"{at}.npz"))
        if kept is not None and kept.settings == told and kept.finished and Path(f"{at}.png").exists():
            return f"{at}.png: done before"
        state = _to_resume(at, told) if options.resume else None
        found, interrupted = _followed(run, at, told, state, every=every, snapshots=snapshots)
    if not found.finished:
        stop(
            f"Stopped after {unit} {len(found.losses)}: {at}.png. The same command with --resume continues from there."
        )
    result = f"{at}.png: loss {float(found.losses[-1]):.4g} after {len(found.losses)} {unit}s"
    if interrupted:
        stop(result)
    return result


def _followed(
    run: Callable[..., _Found],
    at: Path,
    settings: str,
    state: list[np.ndarray] | None,
    *,
    every: int,
    snapshots: bool,
) -> tuple[_Found, bool]:
    """Return what a run has found, and whether it was interrupted."""
    looks = next(count for count in range(min(8, every), 0, -1) if every % count == 0)
    with interrupts() as interrupted, jaxviz.ProgressBar(title=at.name) as bar:
        follow = _Follow(at, settings, every, snapshots, state is None, interrupted, bar)
        try:
            found = run(every=looks, resume=state, callback=follow)
        except jaxviz.DivergedError as error:
            _save(at, error.found, settings)
            raise ValueError(f"{error}; {at}.png is the image before") from error
        return found, interrupted()
