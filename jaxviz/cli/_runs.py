"""Long runs of the command line: what they make is saved as it comes, and they can be stopped and gone on with."""

import dataclasses
import json
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

import jaxviz
from jaxviz._files import plain, write_atomically
from jaxviz.cli._verbs import UNREADABLE, interrupts
from jaxviz.data._folder import check_writable
from jaxviz.synthesis._minimize import DivergedError, Synthesis

_OF_NETWORK = (
    "; the network is another one when other weights were imported under its name, and may be when JAX has another "
    "version"
)


class Kept(NamedTuple):
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


def _save(at: Path, found: Synthesis, settings: str) -> None:
    """Write the picture, then the numbers: the images as they are, the losses, and while it goes on, the state."""
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


def _picture(found: Synthesis) -> jax.Array:
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
                "anew without --resume"
            )
        changed = sorted(name for name in before | now if before.get(name) != now.get(name))
        raise ValueError(
            f"{at}.npz is of a run with another {', '.join(changed)}: give the same options to resume it, or start "
            f"anew without --resume{_OF_NETWORK if 'network' in changed else ''}"
        )
    return kept.state or None


@dataclasses.dataclass
class _Follow:
    """Follows a run: tells how far it is, saves it, and ends it when it is interrupted."""

    at: Path
    settings: str
    every: int
    snapshots: bool
    fresh: bool  # it does not go on with what is saved
    unit: str
    interrupted: Callable[[], bool]
    tell: Callable[[str], None]
    start: float = dataclasses.field(default_factory=time.perf_counter)
    saved: int = 0
    first: int | None = None

    def __call__(self, found: Synthesis) -> bool:
        taken, stop = len(found.losses), self.interrupted()
        self.first = taken if self.first is None else self.first
        pace = (time.perf_counter() - self.start) / max(taken - self.first, 1)
        loss = f", loss {float(found.losses[-1]):.4g}" if taken else ""
        self.tell(f"{self.unit} {taken}{loss}" + (f", {pace:.2f} s each" if taken > self.first else ""))
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
    run: Callable[..., Synthesis],
    at: Path,
    settings: dict[str, Any],
    *,
    every: int,
    resume: bool,
    snapshots: bool = False,
    unit: str = "step",
) -> str:
    """Run a synthesis and save it as it comes; return what became of it, in a line."""
    from rich.console import Console

    if every < 1:
        raise ValueError(f"--every: expected 1 step or more, got {every}")
    check_writable(at.parent)
    if settings.get("tolerance") is not None:
        settings = settings | {"every": every}  # when a run stalls is looked at so often
    told = json.dumps(settings | {"jaxviz": version("jaxviz-cnn")}, sort_keys=True, default=str)
    kept = read(Path(f"{at}.npz"))
    if kept is not None and kept.settings == told and kept.finished and Path(f"{at}.png").exists():
        return f"{at}.png: done before"
    state = _to_resume(at, told) if resume else None
    looks = next(count for count in range(min(8, every), 0, -1) if every % count == 0)
    with interrupts() as interrupted, Console(stderr=True).status("Starting") as status:
        follow = _Follow(
            at,
            told,
            every,
            snapshots,
            state is None,
            unit,
            interrupted,
            lambda line: status.update(plain(f"{at.name}: {line} …")),
        )
        try:
            found = run(every=looks, resume=state, callback=follow)
        except DivergedError as error:
            _save(at, error.found, told)
            raise ValueError(f"{error}; {at}.png is the image before") from error
    if not found.finished:
        print(f"Stopped after {unit} {len(found.losses)}: {at}.png. The same command with --resume goes on from there.")
        raise SystemExit(130)
    result = f"{at}.png: loss {float(found.losses[-1]):.4g} after {len(found.losses)} {unit}s"
    if interrupted():
        print(result)
        raise SystemExit(130)
    return result
