"""Checkpoints of a training run, in a folder from which it resumes."""

import contextlib
import functools
from os import PathLike
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from jaxviz._extras import extra
from jaxviz._files import alone_in
from jaxviz._progress import Progress
from jaxviz._types import Key
from jaxviz.activation._store import claim, traced_by
from jaxviz.program._digest import digest_of
from jaxviz.show._shown import shown

PARTS = ("content", "style", "smoothness", "steadiness")  # of the loss


class _StyleTraining(NamedTuple):
    params: Any
    losses: Float[np.ndarray, "steps 4"]
    finished: bool


@shown("lines", lambda found: dict(zip(PARTS, found.losses.T, strict=True)))
class StyleTraining(Progress, _StyleTraining):
    """The state of a net's training so far, or its result.

    Attributes:
        params: the net's parameters, for `style_net`.
        losses: `(steps, 4)`: content, style, smoothness and steadiness, each weighted, of the batch before each step;
            the loss is their sum.
        finished: False while training is in progress, or if its callback ended it.
    """


def _alone_in_its_store(train: Any) -> Any:
    """Keep two runs from training into the same store, where each would undo the other's work."""

    @functools.wraps(train)
    def alone(*args: Any, store: str | PathLike[str] | None = None, **options: Any) -> StyleTraining:
        with contextlib.nullcontext() if store is None else alone_in(Path(store)):
            return train(*args, store=store, **options)

    return alone


def entropy_of(key: Key) -> list[int]:
    return [int(x) for x in np.ravel(jax.random.key_data(key))]


class Keeper:
    """Saves the state of training in a folder with Orbax: a checkpoint is complete or not there at all."""

    def __init__(self, store: str | PathLike[str] | None, settings: dict[str, Any]):
        self.manager = None
        if store is None:
            return
        with extra("train"):
            import orbax.checkpoint as ocp

        folder = Path(store).absolute()
        notes = {"jax": jax.__version__}
        changed = claim(folder / "settings.json", settings, notes=notes, of=["checkpoints"])
        if "program" in changed and (changed["program"] is None or len(changed) == 1):
            why = f"with a network that computes something else{traced_by(folder)}"
            if changed["program"] is None:
                why = "from an earlier version of jaxviz, which did not record what the network computes"
            raise ValueError(f"{folder} holds a training run {why}: choose another folder, or delete this one")
        if changed:
            others = ", ".join(sorted({*changed} - {"program"}))
            raise ValueError(
                f"{folder} holds a training run with another {others}: give the same options to resume it, or choose "
                "another folder"
            )
        options = ocp.CheckpointManagerOptions(max_to_keep=2, enable_async_checkpointing=False)
        # Not as one OCDBT database: Orbax cannot read back one in a folder with brackets in its path.
        handler = ocp.PyTreeCheckpointHandler(use_ocdbt=False)
        self.manager = ocp.CheckpointManager(folder / "checkpoints", options=options, item_handlers=handler)
        self.args = ocp.args

    def keep(self, state: Any, losses: np.ndarray) -> None:
        if self.manager is None or self.manager.latest_step() == len(losses):
            return
        # As arrays on the host, from which any number of devices can resume.
        leaves = {f"{i:04d}": np.asarray(leaf) for i, leaf in enumerate(jax.tree.leaves(state))}
        kept: dict[str, Any] = {"state": leaves, "losses": losses}
        kept |= {"digest": np.frombuffer(bytes.fromhex(digest_of(kept)), np.uint8)}
        self.manager.save(len(losses), args=self.args.PyTreeSave(kept))

    def restored(self, fresh: Any) -> tuple[Any, np.ndarray]:
        """Return the state and losses to resume from."""
        step = None if self.manager is None else self.manager.latest_step()
        if self.manager is None or step is None:
            return fresh, np.zeros((0, len(PARTS)), np.float32)
        at = self.manager.directory / str(step)
        try:
            kept: Any = self.manager.restore(step, args=self.args.PyTreeRestore())
            told = np.asarray(kept.pop("digest")).tobytes().hex()
        except Exception as error:  # Orbax raises all kinds of errors for damaged files
            kept, told = error, ""
        if isinstance(kept, Exception) or digest_of(kept) != told:
            raise ValueError(
                f"{at}: this checkpoint is damaged: delete the folder, and training resumes from the previous "
                "checkpoint or starts over"
            ) from (kept if isinstance(kept, Exception) else None)
        leaves = [jnp.asarray(kept["state"][name]) for name in sorted(kept["state"])]
        return jax.tree.unflatten(jax.tree.structure(fresh), leaves), np.asarray(kept["losses"])
