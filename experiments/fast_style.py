"""Fast style versus `stylize`: Johnson et al. 2016, Figure 5 and Table 1, and mixtures: `figures/fast_style*.png`.

    python experiments/fast_style.py ../shared/data/imagenet_samples ../shared/data/paintings

For each of ten photographs that the net never saw, at 256 px, `stylize` minimizes the net's training loss with L-BFGS
from noise; what counts is the iteration from which its loss stays below that of one pass of the net, as it was trained:
without the border that `restyle` adds, whose cost is printed, too. Then the time of one pass at 256, 512 and 1024 px is
compared with that of 500 iterations, of which `--timed` are run; and the pictures are drawn: every style on every
photograph, and the transition from one style to another. `--singles FILE ...` names nets with one style each, trained
for as long (`train_fast_style.py --only scream --steps 5000 --weights FILE --out FOLDER`); the content and style losses
of the one net for all (`--weights`) are compared with theirs on the same photographs, as in Dumoulin et al. 2017, who
report +8.7 ± 3.9% and -8.9 ± 16.5%.

With `--before`, for both nets: by how much a pixel changes when the photograph moves by a pixel or two and has other
noise, as in a film; and content and style losses at 256, 512 and 1024 px, with the style as large as was learned there.

What to look for: no checkerboard, no lattice in flat areas, no border; strokes as large in the picture at every size;
eyes and outlines where they were; and a smooth transition.

Measured with the net before, whose strokes had one size, and a border of 16 px, in 20 minutes on two cores (AMD EPYC,
without AVX-512, noisy): one pass is as good as 50 iterations (median of 20 pictures; least 29, most 83), and the means
of all cross after 52, where the paper, which plots means, has 50 to 100.
By style: 31 to 41 for "starry_night", 69 to 83 for "scream", 29 to 39 for "mosaic", 37 to 57 for "ink", 56 to 68 for
"paper". With the paper's L-BFGS, which clips, and neither shortens steps nor excludes variables at a bound, it was 53
and 55; with the border of `restyle`, one style for each photograph and that L-BFGS, 44.

Over those ten and 15 photographs of scikit-image, scikit-learn and Matplotlib in all five styles, the border raises the
loss by 11% (median; starry_night 11%, scream 18%, mosaic 9%, ink 9%, paper 21%), for a tenth of the pictures by more
than 27%, at worst by 78% (scream, on one of the ten).

500 iterations of `stylize` take 178, 693 and 2,882 s at 256, 512 and 1024 px, one pass 0.139, 0.489 and 1.71 s: 1,280,
1,416 and 1,682 times as long (in two runs alongside other work 1,279 to 2,464 times).

Compared with single-style nets trained for 5,000 steps each, a net of all five trained for 5,000 steps: content +9.2 ±
3.0%, style +5.4 ± 8.7%, mean and deviation over the styles (starry_night +12.3, -0.1; scream +8.5, +2.0; mosaic +13.2,
-5.1; ink +5.7, +19.7; paper +6.5, +10.3). That net itself, with 59,500 steps: -1.6 ± 2.4% and -1.9 ± 1.8%.
"""

import itertools
import time
from pathlib import Path
from typing import Annotated, Any

import jax
import jax.numpy as jnp
import numpy as np
import tyro
from train_fast_style import LAYERS, LOSS, PROPORTION, SIZES, WEIGHTS, held_out, styles

import jaxviz

FIGURES = Path(__file__).parent / "figures"


def main(
    photographs: Annotated[Path, tyro.conf.Positional],
    paintings: Annotated[Path, tyro.conf.Positional],
    /,
    *,
    weights: Path = WEIGHTS,
    size: int = 256,
    styles_each: int = 2,
    steps: int = 100,
    sizes: tuple[int, ...] = (256, 512, 1024),
    timed: int = 5,
    at_each_size: int = 10,
    singles: tuple[Path, ...] = (),
    before: Path | None = None,
    out: Path = FIGURES,
    judged: Path = Path("out/fast_style_judged.png"),
) -> None:
    """Print both tables and draw the pictures.

    Args:
        photographs: the folder that the net was trained on; the ten held-out ones are used.
        paintings: the folder with the paintings.
        weights: the net.
        size: side of the photographs in Figure 5, in pixels.
        styles_each: number of styles for which each photograph is optimized, in turn.
        steps: steps of L-BFGS.
        sizes: sizes to time.
        timed: steps of L-BFGS that are timed at each size.
        at_each_size: how many of the ten photographs have their losses told at each size.
        singles: nets with one of the styles each, to compare with.
        before: another net with the same styles, whose loss and flicker are told beside the net's.
        out: folder for the pictures.
        judged: file for a sheet of every style on every held-out photograph, for inspection.
    """
    made = jaxviz.load_style_net(weights)
    pictures = styles(paintings, size)
    photos = [jaxviz.load_image(path, size=size) for path in held_out(photographs)[1]]
    draw(made, list(pictures), photos, out, judged)
    for net in [made] if before is None else [made, jaxviz.load_style_net(before)]:
        flicker(net, list(pictures), photos)
        at_sizes(net, paintings, held_out(photographs)[1][:at_each_size])
    against_singles(made, [jaxviz.load_style_net(path) for path in singles], pictures, photos)
    border_costs(made, pictures, photos)
    table_1(made, next(iter(pictures.values())), photos[0], sizes, timed)
    figure_5(made, pictures, photos, styles_each, steps, out)


def optimize(photo: jax.Array, style: jax.Array, **run) -> jaxviz.Synthesis:
    """Minimize the training loss for one photograph and one style, but for the steadiness, which needs a net."""
    net, params = jaxviz.load("vgg16_features")
    options: dict[str, Any] = {
        "content_weight": LOSS["content_weight"],
        "style_weights": LOSS["style_weight"],
        "smoothness": LOSS["smoothness"],
        "style_size": PROPORTION,
        **LAYERS,
    }
    return jaxviz.stylize(net, params, jax.random.key(0), photo, style, **options | run)


def flicker(made: jaxviz.StyleNet, names: list, photos: list) -> None:
    """Print how much a pixel of the styled photograph changes when it moves by one and two pixels with other noise."""
    rng = np.random.default_rng(0)
    for name in names:
        changes = []
        for photo in photos:
            noisy = np.clip(photo + 0.02 * rng.normal(size=(2, *photo.shape)), 0, 1).astype(np.float32)
            first, second = noisy[0, :-1, :-2], noisy[1, 1:, 2:]
            one, other = (jaxviz.restyle(made, frame, style=name) for frame in (first, second))
            changes.append(np.abs(one[1:, 2:] - other[:-1, :-2])[16:-16, 16:-16].mean())
        print(f"{name}: a pixel changes by {np.mean(changes):.4f} from one frame to the next")


def at_sizes(made: jaxviz.StyleNet, paintings: Path, files: list) -> None:
    """Print content and style losses of one pass at each size."""
    nothing = {"content_weight": 0.0, "style_weights": 0.0, "smoothness": 0.0}
    for size in SIZES:
        for name, style in styles(paintings, size).items():
            parts = []
            for path in files:
                photo = jaxviz.load_image(path)
                shape = [round(side * size / max(photo.shape)) for side in photo.shape[:2]]
                photo = jnp.clip(jaxviz.resize(photo, (shape[0], shape[1])), 0, 1)
                start = jnp.asarray(jaxviz.restyle(made, photo, style=name))
                found = (
                    optimize(photo, style, start=start, steps=1, **nothing | weight).losses[0]
                    for weight in ({"content_weight": 1.0}, {"style_weights": LOSS["style_weight"]})
                )
                parts.append(list(found))
            content, styled = np.mean(parts, 0)
            print(f"{size} px, {name}: content {content:.3f}, style {styled:.3f}", flush=True)


def against_singles(made: jaxviz.StyleNet, singles: list, pictures: dict, photos: list) -> None:
    """Print by how much the losses of the net of all styles exceed those of single-style nets."""
    found = []
    nothing = {"content_weight": 0.0, "style_weights": 0.0, "smoothness": 0.0}
    for single in singles:
        (name,) = {style.partition("@")[0] for style in single.styles}

        def part(image: Any, photo: Any, style: Any = pictures[name], **weight: float) -> float:
            start = jnp.asarray(image)
            return float(optimize(photo, style, start=start, steps=1, **nothing | weight).losses[0])

        changes = []
        for photo in photos:
            images = [
                jaxviz.restyle(made, photo, style=name),
                jaxviz.restyle(single, photo, style=name),
            ]
            ours, its = (
                np.array([part(image, photo, content_weight=1.0), part(image, photo, style_weights=1.0)])
                for image in images
            )
            changes.append(ours / its - 1)
        percent = 100 * np.array(changes)
        found.append(percent.mean(0))
        print(f"{name}: the net of all styles compared with its own net, {_told(percent)}", flush=True)
    if singles:
        print(f"mean of the styles: {_told(np.array(found))}")


def border_costs(made: jaxviz.StyleNet, pictures: dict, photos: list) -> None:
    """Print by how much the border that `restyle` adds raises the loss."""
    for name, picture in pictures.items():

        def loss(image: Any, photo: Any, style: Any = picture) -> float:
            return float(optimize(photo, style, start=jnp.asarray(image), steps=1).losses[0])

        costs = []
        for photo in photos:
            plain = jaxviz.style_net(made, photo[None], style=name)[0]
            costs.append(loss(jaxviz.restyle(made, photo, style=name), photo) / loss(plain, photo) - 1)
        print(f"{name}: the border costs {np.median(costs):.1%} of the loss (median), at most {max(costs):.1%}")


def _told(percent: np.ndarray) -> str:
    content, style = (f"{of.mean():+.1f} ± {of.std():.1f}%" for of in percent.T)
    return f"content {content}, style {style}"


def draw(made: jaxviz.StyleNet, names: list, photos: list, out: Path, judged: Path) -> None:
    """Draw every style on the held-out photographs, and on scikit-image's; and the transition between two styles."""
    from skimage import data

    def sheet(photos: list) -> jax.Array:
        rows = [[photo, *(jaxviz.restyle(made, photo, style=name) for name in names)] for photo in photos]
        return jaxviz.montage([cell for row in rows for cell in row], columns=1 + len(names))

    judged.parent.mkdir(parents=True, exist_ok=True)
    jaxviz.save_image(judged, sheet(photos))
    free = [jaxviz.load_image(photo, size=224) for photo in (data.chelsea(), data.astronaut(), data.coffee())]
    jaxviz.save_image(out / "fast_style.png", sheet(free))
    first, second, *_ = names
    way = [{first: 1 - t, second: t} for t in np.linspace(0, 1, 6).tolist()]
    row = [jaxviz.restyle(made, free[0], style=weights) for weights in way]
    print(
        "mean difference between neighbors in the transition:",
        *(f"{np.abs(a - b).mean():.4f}" for a, b in itertools.pairwise(row)),
    )
    jaxviz.save_image(out / "fast_style_mix.png", jaxviz.montage(row, columns=len(row)))


def table_1(made: jaxviz.StyleNet, style: jax.Array, photo: jax.Array, sizes: tuple[int, ...], timed: int) -> None:
    """Print the time of one pass next to that of 500 iterations."""
    print("| size | 500 iterations of `stylize`, s | one pass, s | ratio | passes per second |")
    print("|---|---|---|---|---|")
    for size in sizes:
        image = jnp.clip(jaxviz.resize(photo, (size, size)), 0, 1)
        passes = []
        for _ in range(6):
            start = time.perf_counter()
            jaxviz.restyle(made, image, tile=max(sizes))
            passes.append(time.perf_counter() - start)
        at: list[float] = []
        optimize(image, style, start="noise", steps=timed + 1, every=1,
                 callback=lambda _, at=at: at.append(time.perf_counter()))  # fmt: skip
        slow, fast = 500 * (at[-1] - at[0]) / timed, min(passes[1:])
        print(f"| {size} | {slow:.0f} | {fast:.3f} | {slow / fast:.0f} | {1 / fast:.1f} |", flush=True)


def figure_5(made: jaxviz.StyleNet, pictures: dict, photos: list, styles_each: int, steps: int, out: Path) -> None:
    """Print and plot the number of iterations after which the loss of `stylize` is below that of one pass."""
    curves, passes, counts = [], [], []
    for i, photo in enumerate(photos):
        for j in range(styles_each):
            name = list(pictures)[(i + j * max(1, len(pictures) // styles_each)) % len(pictures)]
            # The net as trained, without the border that `restyle` adds.
            once = jaxviz.style_net(made, photo[None], style=name)[0]
            # The loss before the first step from the net's image is the net's loss.
            one = float(optimize(photo, pictures[name], start=once, steps=1).losses[0])
            losses = np.asarray(optimize(photo, pictures[name], start="noise", steps=steps).losses)
            below = np.flatnonzero(losses < one)
            counts.append(int(below[0]) if len(below) else steps)
            curves.append(losses)
            passes.append(one)
            said = f"{counts[-1]}" if len(below) else f"more than {steps}"
            print(f"photograph {i}, {name}: one pass {one:.3f}, as {said} iterations", flush=True)
    least, middle = min(counts), int(np.median(counts))
    print(f"One pass is as good as {middle} iterations (median; least {least}), of {len(counts)} pictures.")
    below = np.flatnonzero(np.mean(curves, 0) < np.mean(passes))
    crossed = below[0] if len(below) else f"more than {steps}"
    print(f"The means of all pictures, which the paper plots, cross after {crossed} iterations.")
    from matplotlib.figure import Figure

    axes = (figure := Figure(figsize=(6, 4), layout="constrained")).add_subplot(xlabel="iteration", ylabel="loss")
    axes.plot(np.mean(curves, 0), label="L-BFGS from noise")
    axes.axhline(float(np.mean(passes)), color="C1", label="one pass of the net")
    axes.set(yscale="log")
    axes.legend()
    figure.savefig(out / "fast_style_losses.png", dpi=120)


if __name__ == "__main__":
    tyro.cli(main)
