"""The command line: `jaxviz tour`, `jaxviz weights` and a verb for each method, built from functions' signatures."""

import io
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Literal

import tyro

from jaxviz._files import printable
from jaxviz.cli._weights import fetch, import_, list_, verify


def tour(
    image: Annotated[Path | None, tyro.conf.Positional] = None,
    /,
    *,
    out: Path = Path("tour"),
    size: Literal["small", "full"] = "small",
    only: tuple[str, ...] = (),
    images: Path | None = None,
    seed: int = 0,
) -> None:
    """Show every method on one photograph: a web page, made in minutes.

    A rerun skips the sections that are done; Ctrl-C leaves a valid page with those.

    Args:
        image: The photograph; by default scikit-image's cat.
        out: Folder for the page and its pictures.
        size: About 5 minutes on two cores (small), or several times that for better pictures (full).
        only: Sections to make, by id; by default all.
        images: Folder of photographs to look through for neighbours and patches; by default crops of those that come
            with scikit-image and scikit-learn.
        seed: Of all randomness.
    """
    from rich.console import Console

    from jaxviz._files import plain
    from jaxviz.report._tour import run_tour

    console, start = Console(), time.perf_counter()
    with console.status("Starting") as status:

        def report(line: str) -> None:
            if line.endswith("…"):
                status.update(plain(line))  # a path may have brackets
            else:
                console.print(plain(line))

        try:
            page = run_tour(_photo(image), out, full=size == "full", only=only, seed=seed, report=report, album=images)
        except KeyboardInterrupt:
            console.print(
                plain(f"Stopped. {out / 'index.html'} has what was done; the same command goes on from there.")
            )
            raise SystemExit(130) from None
    console.print(plain(f"{page} after {time.perf_counter() - start:.0f} s: open it in a browser."))


def _photo(image: Path | None) -> object:
    if image is not None:
        return image
    from skimage import data

    return data.chelsea()


def _compile_cache() -> None:
    """Keep compiled programs between runs, beside the weights, in a folder that nobody else can write to."""
    import jax

    from jaxviz._own_folders import NotOwnError, own_folder
    from jaxviz.models._load import cache_folder

    try:
        folder = str(own_folder(cache_folder() / "xla"))
    except NotOwnError as error:
        print(f"jaxviz: programs are compiled anew, and none is kept or loaded: {error}", file=sys.stderr)
        folder = None
    jax.config.update("jax_compilation_cache_dir", folder)
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)


def weights() -> None:
    """List, fetch, verify or import pretrained weights: see `jaxviz weights --help`."""  # main takes it from here


def fast_style() -> None:
    """Train nets that show images in a style in one pass, and apply them: see `jaxviz fast-style --help`."""


_WEIGHTS = {"list": list_, "fetch": fetch, "verify": verify, "import": import_}


def main(args: list[str] | None = None) -> None:
    """Run the command line; errors of ours end it with one line, not with a traceback."""
    args = sys.argv[1:] if args is None else args
    if isinstance(sys.stdout, io.TextIOWrapper):  # a name that it cannot show does not end a batch
        sys.stdout.reconfigure(errors="backslashreplace")
    _compile_cache()
    if args[:1] == ["weights"]:
        _run(_WEIGHTS, "jaxviz weights", args[1:])
    elif args[:1] == ["fast-style"]:
        from jaxviz.cli._fast_style import VERBS

        _run(VERBS, "jaxviz fast-style", args[1:])
    else:
        from jaxviz.cli import _attribution as gradient
        from jaxviz.cli import _datasets as activation
        from jaxviz.cli import _synthesis as synthesis

        verbs = activation.VERBS | gradient.commands() | synthesis.commands()
        _run({"tour": tour, **verbs, "fast-style": fast_style, "weights": weights}, "jaxviz", args)


def _run(commands: dict[str, Callable[..., None]], program: str, args: list[str]) -> None:
    try:
        tyro.extras.subcommand_cli_from_dict(commands, prog=program, args=args)
    except (ValueError, RuntimeError, OSError, FloatingPointError) as error:
        if os.environ.get("JAXVIZ_TRACEBACK"):
            raise
        print(f"jaxviz: {printable(str(error), keep=chr(10))}", file=sys.stderr)
        raise SystemExit(1) from None
    except KeyboardInterrupt:
        print("jaxviz: stopped", file=sys.stderr)
        raise SystemExit(130) from None


if __name__ == "__main__":
    main()
