"""Train the style net that comes with jaxviz: `weights/fast_style.safetensors`.

    python experiments/train_fast_style.py ../shared/data/imagenet_samples ../shared/data/paintings

One net with conditional instance normalization for five styles (Johnson et al. 2016, Dumoulin et al. 2017). No style is
under copyright: two paintings whose authors died more than 80 years ago (Van Gogh 1890, Munch 1944), and three pictures
that this script draws (mosaic, ink, paper). The photographs are 600 from ImageNet, of which ten, spread over all of
them (`held_out`), are never seen in training.

If interrupted, by Ctrl-C or otherwise, the same command resumes training; `--out` has checkpoints, a sheet of samples
and the losses, every `--every` steps. `--hours` ends a run after that time.

Each style is learned with strokes for photographs of 256, 512 and 1024 px (`SIZES`): `restyle` chooses by the size.

The net in `weights/` was made in three parts. First, one row for each style, at 384 px, with the middle squares of the
photographs, layer weights of 10, 9, 2 and 0.05 and no steadiness: 59,500 steps of four crops of 256 px in 310 s on one
NVIDIA H200 (5.2 ms per step; jax 0.11.2). Then, from that net, with what is now in this script, on two cores without
AVX-512 that did other work, too, 250 steps (of a run planned for 3,000) and 1,200:

    --start NET --steps 1200 --size 192 --batch-size 1 --precision float32 --learning-rate 5e-3

whose last 500 steps had losses of 1.17 for content, 1.00 for style, 0.10 for smoothness and 0.15 for steadiness. Last,
since Starry Night's strokes were still fine, 420 steps for its three rows alone (`add_to`, which starts them at the
mean of all rows; a style weight of 80, layer weights of 10, 9, 6 and 2, smoothness 4, steadiness 30, Adam with 0.02 and
a cooldown of 0.6). So few steps do much where a net is there: in the first 250, style losses at 1024 px fell by a third
(Starry Night) to four fifths (The Scream).

What was tried:
- Weights of the loss, each for 2,000 steps from an earlier net. One pass was then as good as 22 iterations of L-BFGS
  with layer weights of 4, 4, 2 and 0.5 and a style weight of 5, as 28 with 10, and as 38 with those of Johnson et al.,
  now the defaults of `train_style_net`. With equal layer weights, mosaic and ink were hardly visible except in empty
  areas.
- Optimizers, 600 steps of a net of width 16 at 96 px (with equal layer weights): Adam ended at 7.69, 6.35 and 7.05 with
  rates of 3e-3, 6e-3 and 1.2e-2, Muon at 6.35, 5.77 and 5.75 with 3e-3, 1e-2 and 2e-2.

Without a GPU, use a thinner net: `--width 24 --size 192 --batch-size 1 --precision float32` takes 0.6 to 1 s per step
on two cores. Among the first nets made here, with equal layer weights and Adam, one such net had, after 14,250 steps in
230 minutes, a loss 13% above that of a net of the paper's width after 24,400 steps on the H200.
"""

import math
import signal
import time
from pathlib import Path
from typing import Annotated, Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
import tyro

import jaxviz

PAINTINGS = {"starry_night": "starry_night_google", "scream": "the_scream"}
WEIGHTS = Path(__file__).parents[1] / "weights" / "fast_style.safetensors"


def held_out(photographs: Path) -> tuple[list[Path], list[Path]]:
    """Return the photographs to train on, and ten, spread over all of them, to test on."""
    files = sorted(path for path in photographs.iterdir() if path.suffix.lower() in (".jpg", ".jpeg"))
    judged = files[30 :: len(files) // 10][:10]
    return [path for path in files if path not in judged], judged


# Pictures drawn here, (size, size, 3): each is drawn at twice the size and averaged.


def _noise(rng: np.random.Generator, size: int, cells: int, octaves: int = 3) -> np.ndarray:
    """Return smooth noise with mean 0 and standard deviation 1."""
    total = np.zeros((size, size))
    for i in range(octaves):
        coarse = rng.normal(size=(cells * 2**i + 1,) * 2)
        total += np.asarray(jax.image.resize(coarse, (size, size), "cubic")) / 2**i
    return (total - total.mean()) / total.std()


def _shaded(levels: np.ndarray, palette: list[str]) -> np.ndarray:
    """Return the colors of a palette at levels in [0, 1]."""
    colors = np.array([[int(c[i : i + 2], 16) / 255 for i in (0, 2, 4)] for c in palette])
    at = np.linspace(0, 1, len(colors))
    return np.stack([np.interp(levels, at, colors[:, i]) for i in range(3)], -1)


def _averaged(picture: np.ndarray) -> jax.Array:
    size = picture.shape[0] // 2
    return jnp.asarray(np.clip(picture.reshape(size, 2, size, 2, 3).mean((1, 3)), 0, 1), jnp.float32)


def mosaic(size: int = 384, seed: int = 0) -> jax.Array:
    """Draw glass tiles with dark joints."""
    from sklearn.neighbors import KDTree

    rng, side = np.random.default_rng(seed), 2 * size
    cells = 34
    grid = np.stack(np.meshgrid(np.arange(cells), np.arange(cells), indexing="ij"), -1).reshape(-1, 2)
    centers = (grid + 0.5 + rng.uniform(-0.42, 0.42, grid.shape)) * side / cells
    pixels = np.stack(np.meshgrid(np.arange(side), np.arange(side), indexing="ij"), -1).reshape(-1, 2)
    distances, nearest = KDTree(centers).query(pixels, k=2)
    field = _noise(rng, side, 3)[tuple(np.clip(centers.astype(int), 0, side - 1).T)]
    levels = np.clip(0.5 + 0.3 * field + rng.normal(0, 0.1, len(field)), 0, 1)
    palette = ["0b2545", "13518f", "1f9bb0", "e9e3c5", "f2b632", "d9531e", "7d1128"]
    colors = _shaded(levels, palette) * rng.uniform(0.8, 1.15, (len(field), 1))
    joints = np.clip(96 * (distances[:, 1] - distances[:, 0]) / size - 0.3, 0, 1)[:, None]
    return _averaged((colors[nearest[:, 0]] * joints + 0.06 * (1 - joints)).reshape(side, side, 3))


def ink(size: int = 384, seed: int = 1) -> jax.Array:
    """Draw in pen and wash: outlines, a wash in a few tones, and hatching in more directions where it is darker."""
    rng, side, unit = np.random.default_rng(seed), 2 * size, size / 384
    tone = 1 / (1 + np.exp(-1.4 * _noise(rng, side, 6, octaves=5)))
    y, x = np.mgrid[:side, :side]
    bend = 6 * unit * _noise(rng, side, 8)
    wash = 0.35 + 0.65 * np.clip(np.floor(tone * 6 + 0.25 * _noise(rng, side, 24)) / 5, 0, 1)
    lines = np.ones((side, side))
    for angle, darker in ((0.7, 0.7), (2.3, 0.46), (1.5, 0.28)):
        along = (x + bend) * np.cos(angle) + (y + bend) * np.sin(angle)
        wave = 0.5 + 0.5 * np.cos(2 * np.pi * along / (10 * unit))
        width = np.clip(darker - tone, 0, 0.4) * 1.1
        lines = np.minimum(lines, np.clip((1 - width - wave) / 0.12 + 0.5, 0, 1) * (width > 0) + (width <= 0))
    for level in (0.33, 0.6):
        down, across = np.gradient(tone)
        edge = np.abs(tone - level) / np.maximum(np.hypot(down, across), 1e-6)
        lines = np.minimum(lines, np.clip(edge / (2.5 * unit) - 0.5, 0, 1))
    picture = _shaded(wash, ["1d2b3a", "35576b", "7f9aa0", "c9c2a5", "efe3c4", "f8f1de"])
    return _averaged(picture * (0.22 + 0.78 * lines[..., None]))


def paper(size: int = 384, seed: int = 2) -> jax.Array:
    """Draw a landscape cut from layers of paper, each with a shadow."""
    rng, side = np.random.default_rng(seed), 2 * size
    height = _noise(rng, side, 6, octaves=3)
    ranks = np.argsort(np.argsort(height.ravel())).reshape(side, side) / side**2
    levels = np.floor(ranks * 9) / 8
    picture = _shaded(np.clip(levels, 0, 1), ["2d1e45", "7b2d5b", "d1495b", "f0a35e", "f7e3af", "66a182", "1d5c63"])
    far = round(10 * size / 384)
    shadow = np.pad(levels, ((far, 0), (far, 0)), mode="edge")[:side, :side] > levels
    return _averaged(picture * np.where(shadow, 0.55, 1.0)[..., None])  # no grain: a net would turn it into a grid


def styles(paintings: Path, size: int) -> dict[str, jax.Array]:
    """Return the styles by name, with the longer side that is learned for photographs of a size."""
    side = round(PROPORTION * size)
    painted = {name: jaxviz.load_image(paintings / f"{file}.jpg", longest=side) for name, file in PAINTINGS.items()}
    return painted | {draw.__name__: draw(side) for draw in (mosaic, ink, paper)}


def photographs_and_crops(paths: list[Path], side: int) -> np.ndarray:
    """Return photographs twice, `(n, side, side, 3)`, uint8: their middle squares, and as sharp as they are.

    So the net meets both a small picture of everything and a part of a large picture.
    """
    found = []
    for i, path in enumerate(paths):
        whole = np.asarray(jaxviz.load_image(path))
        small = np.asarray(jaxviz.load_image(path, size=side))
        room = np.array(whole.shape[:2]) - side
        crop = small
        if room.min() >= 0:
            top, left = np.random.default_rng(i).integers(0, room + 1)
            crop = whole[top : top + side, left : left + side]
        found += [small, crop]
    return np.stack([np.rint(255 * image).astype(np.uint8) for image in found])


def begun_from(net: jaxviz.StyleNet, names: list[str]) -> Any:
    """Return a net's parameters with a row for each name: its own, or that of the style without a size."""
    rows = np.array([net.styles.index(name if name in net.styles else name.partition("@")[0]) for name in names])
    chosen = lambda what, x: x if what == "kernel" else x[rows]
    return {name: {what: chosen(what, x) for what, x in layer.items()} for name, layer in net.params.items()}


# The loss, which `stylize` minimizes, too, in `experiments/fast_style.py`, but for the steadiness.
SIZES = (256, 512, 1024)  # of photographs, by their longer side: each style is learned with strokes for each
PROPORTION = 1.25  # longer side of a style by that of the photographs
LOSS = {"content_weight": 1.0, "style_weight": 20.0, "smoothness": 8.0, "steadiness": 50.0}
PARTS = ("content", "style", "smoothness", "steadiness")
LAYERS: dict[str, Any] = {
    "content_layers": ("relu3_3",),
    "style_layers": {"relu1_2": 10.0, "relu2_2": 9.0, "relu3_3": 4.0, "relu4_3": 0.5},
}


def main(
    photographs: Annotated[Path, tyro.conf.Positional],
    paintings: Annotated[Path, tyro.conf.Positional],
    /,
    *,
    out: Path = Path("out/fast_style"),
    weights: Path = WEIGHTS,
    start: Path | None = None,
    steps: int = 59_500,
    hours: float = math.inf,
    width: int | None = None,
    size: int = 256,
    batch_size: int = 4,
    optimizer: Literal["adam", "muon"] = "muon",
    learning_rate: float = 1e-2,
    cooldown: float = 1.0,
    precision: Literal["float32", "bfloat16"] = "bfloat16",
    only: tuple[str, ...] = (),
    every: int = 1000,
) -> None:
    """Train, or resume training.

    Args:
        photographs: folder to train on.
        paintings: folder with the paintings.
        out: folder for checkpoints, samples and losses.
        weights: where the net is written at the end of each run.
        start: a net with the same styles to start from.
        steps: number of steps; without a cooldown, it can be increased later.
        hours: end this run after that time, not counting startup.
        width: channels of the net's first layer; by default 32, or those of the net to start from.
        size: side of the crops in pixels.
        batch_size: crops per step.
        optimizer: Adam, or `jaxviz.muon`.
        learning_rate: the optimizer's learning rate.
        cooldown: final fraction of the steps, over which the learning rate decays to zero.
        precision: precision of the networks; float32 is faster on CPUs.
        only: some of the styles, by name; by default all.
        every: steps between checkpoints.
    """
    learned, judged = held_out(photographs)
    chosen = {
        f"{name}@{size}": (image, PROPORTION * size)
        for name in (only or styles(paintings, 64))
        for size in SIZES
        for image in (styles(paintings, size)[name],)
    }
    photos = jnp.stack([jaxviz.load_image(path, size=256) for path in judged[:4]])
    net, params = jaxviz.load("vgg16_features")
    begin = None if start is None else begun_from(jaxviz.load_style_net(start), list(chosen))
    how: dict[str, Any] = {"learning_rate": learning_rate, "cooldown": cooldown}
    if optimizer == "muon":
        how = {"optimizer": jaxviz.muon(learning_rate, steps=steps, cooldown=cooldown)}
    images, sides = zip(*chosen.values(), strict=True)
    found = jaxviz.train_style_net(
        net, params, jax.random.key(0), photographs_and_crops(learned, size + size // 4), images, **LOSS, **LAYERS,
        **how, start=begin, width=width, size=size, batch_size=batch_size, steps=steps, precision=precision,
        style_size=[side / size for side in sides], store=out, checkpoint_every=every,
        every=8 if jax.default_backend() == "cpu" else 32,
        callback=Follow(out, list(chosen), photos, steps, every, 3600 * hours),
    )  # fmt: skip
    draw(out, list(chosen), photos, found)
    jaxviz.save_style_net(weights, found.params, list(chosen))
    parts = found.losses[-500:].mean(0)
    told = ", ".join(f"{name} {part:.4f}" for name, part in zip(PARTS, parts, strict=True))
    print(f"{weights}: step {len(found.losses)}, {told}")


class Follow:
    """Reports the progress of training, draws samples every so many steps, and ends it on Ctrl-C or when time is up."""

    def __init__(self, out: Path, styles: list[str], photos: jax.Array, steps: int, every: int, seconds: float):
        self.out, self.styles, self.photos = out, styles, photos
        self.steps, self.every, self.seconds = steps, every, seconds
        self.begun, self.first, self.interrupted = time.perf_counter(), -1, False
        signal.signal(signal.SIGINT, self.interrupt)

    def interrupt(self, *_: Any) -> None:
        """Let the first Ctrl-C end training with a checkpoint, and a second one at once."""
        self.interrupted = True
        signal.signal(signal.SIGINT, signal.SIG_DFL)

    def __call__(self, found: jaxviz.StyleTraining) -> bool:
        """Return whether training should end."""
        done = len(found.losses)
        if self.first < 0:  # from here on nothing is compiled
            self.begun, self.first = time.perf_counter(), done
        spent = time.perf_counter() - self.begun
        pace = f", {spent / (done - self.first):.3f} s each" if done > self.first else ""
        print(f"\rstep {done} of {self.steps}, loss {found.losses[-50:].sum(1).mean():.4g}{pace} ", end="", flush=True)
        if done % self.every == 0:
            draw(self.out, self.styles, self.photos, found)
        return self.interrupted or spent > self.seconds


def draw(out: Path, styles: list[str], photos: jax.Array, found: jaxviz.StyleTraining) -> None:
    """Save the net, the losses, and a sheet with a row for each photograph and a column for each style."""
    jaxviz.save_style_net(out / "net.safetensors", found.params, styles)
    columns = [photos, *(jaxviz.style_net(found.params, photos, style=i) for i in range(len(styles)))]
    cells = [column[i] for i in range(len(photos)) for column in columns]
    jaxviz.save_image(out / f"samples-{len(found.losses):06d}.png", jaxviz.montage(cells, columns=len(columns)))
    np.save(out / "losses.npy", found.losses)


if __name__ == "__main__":
    tyro.cli(main)
