"""Pictures of channels and classes beside lucent's and Horama's: same weights, units drawn by seed, equal evaluations.

    python experiments/pictures.py make --how ours --out pictures
    python experiments/pictures.py judge --photos <folder of ImageNet photographs> --out pictures

`make` draws the pictures of one way, one file for each unit; what is there already is not made again. `ours` is what
`ascend` does by default, `olah2017` its recipe of that name. `lucent` and `horama` need PyTorch and those packages
(with torchvision, kornia, IPython), which draw with their own defaults but for the number of steps: each way shows the
network 256 views of a picture. `judge` prints a table of all ways that were made, and draws them side by side.

Cost: for each way, ten minutes of two cores for twelve classes, and ten to twenty for twelve channels.

What to look for: a thing that one can name, in few and large copies; calm between them; no fringes of neon colors.
"""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, get_args

import jax
import jax.numpy as jnp
import numpy as np
import tyro

import jaxviz

LAYERS = ("relu3_3", "relu4_1", "relu4_2", "relu4_3", "relu5_1", "relu5_2", "relu5_3")
WIDTHS = {"relu3_3": 256}
VIEWS = 256
How = Literal["ours", "olah2017", "horama", "lucent"]
SIZE = 224
THUMBNAIL = 150  # pixels of each in the sheet
SHOWN = 128  # of channels, in pixels: for every way
NETWORKS = {"channels": "vgg16_features", "classes": "efficientnet_lite0"}
KINDS = tuple(NETWORKS)
FEATURES = {"channels": "relu5_3", "classes": "pool"}  # what likeness is told by


def units(kind: str) -> list[tuple[str, int]]:
    """Return the twelve units of a kind: layer and number. The draw was fixed before any tuning."""
    draw = np.random.default_rng(23)
    layers = draw.permutation(np.resize(LAYERS, 2 * len(LAYERS)))[:12]  # each at most twice
    channels = [(str(layer), int(draw.integers(WIDTHS.get(layer, 512)))) for layer in layers]
    classes = [("logits", int(i)) for i in draw.choice(1000, 12, replace=False)]
    return channels if kind == "channels" else classes


def name_of(unit: tuple[str, int]) -> str:
    """Return what a unit's picture is called."""
    return f"{unit[0]}_{unit[1]}"


@dataclasses.dataclass(frozen=True)
class Make:
    """Draw the pictures of one way."""

    how: How = "ours"
    kind: Literal["channels", "classes", "all"] = "all"
    out: Path = Path("pictures")
    """Folder for the pictures."""

    def __call__(self) -> None:
        """Draw what is missing."""
        for kind in KINDS if self.kind == "all" else (self.kind,):
            folder = self.out / self.how
            missing = [unit for unit in units(kind) if not (folder / f"{name_of(unit)}.png").exists()]
            if missing:
                draw = _peer(self.how, kind) if self.how in ("lucent", "horama") else _our(self.how, kind)
                for unit in missing:
                    jaxviz.save_image(folder / f"{name_of(unit)}.png", draw(unit))
                    print(self.how, name_of(unit), flush=True)


def _our(how: str, kind: str) -> Callable[[tuple[str, int]], Any]:
    net, params = jaxviz.load(NETWORKS[kind])

    def draw(unit: tuple[str, int]) -> Any:
        options: dict[str, Any] = {} if how == "ours" else jaxviz.recipe(how) | {"steps": VIEWS}
        options |= {} if kind == "classes" else {"size": SHOWN}
        return jaxviz.ascend(score_of(net, unit), params, jax.random.key(0), **options).images[0]

    return draw


def score_of(net: Any, unit: tuple[str, int]) -> Any:
    """Return the score that a picture of a unit is to have."""
    layer, i = unit
    return jaxviz.logit(net, i) if layer == "logits" else jaxviz.channel(net, layer, i)


# The peers, in PyTorch


def _peer(how: str, kind: str) -> Callable[[tuple[str, int]], Any]:
    import pictures_of_peers

    _, params = jaxviz.load(NETWORKS[kind])
    model = pictures_of_peers.vgg16(params) if kind == "channels" else pictures_of_peers.lite0()
    draw = pictures_of_peers.WAYS[how]
    return lambda unit: draw(model, unit, VIEWS)


# The judge


@dataclasses.dataclass(frozen=True)
class Judge:
    """Measure the pictures of all ways, and draw them side by side."""

    photos: Path
    """Folder of ImageNet photographs."""
    out: Path = Path("pictures")
    """Folder of the pictures."""

    def __call__(self) -> None:
        """Print the table, and save the pictures side by side."""
        seen = {kind: self._of_photographs(kind) for kind in KINDS}
        for kind in KINDS:
            ways = [how for how in get_args(How) if _made(self.out / how, kind)]
            judge = _judge(kind, seen)
            for way in ways:
                pictures = [jaxviz.load_image(p) for p in _made(self.out / way, kind)]
                rows = [judge(unit, picture) for unit, picture in zip(units(kind), pictures, strict=True)]
                means = {key: np.mean([row[key] for row in rows]) for key in rows[0]}
                print(kind, way, " ".join(f"{key} {value:.3g}" for key, value in means.items()), flush=True)
            sheet = [jaxviz.load_image(p, size=THUMBNAIL) for way in ways for p in _made(self.out / way, kind)]
            jaxviz.save_image(self.out / f"{kind}.png", jaxviz.montage(sheet, columns=12))

    def _of_photographs(self, kind: str) -> dict[str, np.ndarray]:
        """Return means over positions of what a network finds in each photograph; made once, and kept."""
        file = self.out / f"photographs_{kind}.npz"
        if not file.exists():
            read, paths = _reader(kind), sorted(self.photos.glob("*.jpg"))
            batch = lambda i: jnp.stack([jaxviz.load_image(p, size=SIZE) for p in paths[i : i + 20]])
            parts = [read(batch(i)) for i in range(0, len(paths), 20)]
            found: dict[str, Any] = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
            np.savez(file, **found)
        with np.load(file) as kept:
            return dict(kept)


def _made(folder: Path, kind: str) -> list[Path]:
    """Return the pictures in a folder in the order of the units; none if one is missing."""
    paths = [folder / f"{name_of(unit)}.png" for unit in units(kind)]
    return paths if all(path.exists() for path in paths) else []


def _reader(kind: str) -> Callable[[Any], dict[str, np.ndarray]]:
    """Return what reads a network's layers, as means over positions, by name."""
    net, params = jaxviz.load(NETWORKS[kind])
    names = LAYERS if kind == "channels" else ("pool", "logits")

    @jax.jit
    def read(images: Any) -> dict[str, Any]:
        outputs, values = jaxviz.capture(net, [name for name in names if name != "logits"])(params, images)
        found = values | ({"logits": outputs} if kind == "classes" else {})
        return {name: value.reshape(len(images), -1, value.shape[-1]).mean(1) for name, value in found.items()}

    return lambda images: jax.tree.map(np.asarray, read(images))


def _judge(kind: str, photos: dict[str, dict[str, np.ndarray]]) -> Callable[[tuple[str, int], Any], dict[str, float]]:
    """Return what measures a picture of a unit, shown at the size of photographs."""
    net, params = jaxviz.load(NETWORKS[kind])
    other = next(k for k in KINDS if k != kind)
    readers = {k: _reader(k) for k in KINDS}
    look = jaxviz.jitter_scale_rotate(jitter=16.0, scale=0.15, degrees=10.0)

    def likeness(k: str, shown: Any) -> np.ndarray:
        return _cosines(readers[k](shown)[FEATURES[k]][0], photos[k][FEATURES[k]])

    def judge(unit: tuple[str, int], picture: Any) -> dict[str, float]:
        score = score_of(net, unit)
        shown = jax.image.resize(picture, (SIZE, SIZE, 3), "linear")[None]
        looks = look(jax.random.key(1), jnp.repeat(jnp.concatenate([shown, shown[:, :, ::-1]]), 8, 0))
        of_photos = photos[kind][unit[0]][:, unit[1]]
        rank = of_photos.argsort().argsort() / (len(of_photos) - 1)
        near, best = likeness(other, shown).argsort()[-20:], of_photos.argsort()[-20:]
        row = {
            "plain": float(score(params, shown)[0]) / of_photos.max(),
            "looks": float(score(params, looks).mean()) / of_photos.max(),
            "agreement": float(rank[near].mean()),
            "likeness": float(likeness(kind, shown)[best].mean()),
            "slope": _slope(np.asarray(shown[0])),
        }
        if kind == "classes":
            row["probability"] = float(jaxviz.probability(net, unit[1])(params, looks).mean())
        return row

    return judge


def _cosines(vector: np.ndarray, vectors: np.ndarray) -> np.ndarray:
    return vectors @ vector / np.linalg.norm(vector) / np.linalg.norm(vectors, axis=1)


def _slope(image: np.ndarray) -> float:
    """Return the power by which the spectrum of an image falls with frequency."""
    gray = image.mean(-1) - image.mean()
    window = np.hanning(len(gray))
    spectrum = np.abs(np.fft.fft2(gray * window[:, None] * window[None]))
    frequencies = np.hypot(np.fft.fftfreq(len(gray))[:, None], np.fft.fftfreq(len(gray))[None])
    inside = (frequencies > 0.02) & (frequencies < 0.4)
    return float(-np.polyfit(np.log(frequencies[inside]), np.log(spectrum[inside]), 1)[0])


if __name__ == "__main__":
    tyro.extras.subcommand_cli_from_dict({"make": Make, "judge": Judge})()
