"""The command line: `jaxviz tour`, a verb for each method, `jaxviz fast-style` and `jaxviz weights`.

A verb is a dataclass of its options, imported when it is called: help imports neither JAX nor the other verbs.
"""

import dataclasses
import importlib
import io
import os
import sys
from difflib import get_close_matches
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple, NoReturn, Union

import jaxviz
from jaxviz._extras import MissingPackageError, extra
from jaxviz._files import printable

if TYPE_CHECKING:
    from jaxviz.cli._options import Verb


class Entry(NamedTuple):
    """Where a verb's dataclass is, and the verb in one line."""

    module: str
    name: str
    help: str

    def load(self) -> "type[Verb]":
        """Import the dataclass."""
        return getattr(importlib.import_module(f"jaxviz.cli.{self.module}"), self.name)


_UNITS = {
    "features": Entry("_datasets", "Features", "features of a folder's images, kept on disk"),
    "neighbors": Entry("_datasets", "Neighbors", "the images that are most alike to the network"),
    "embed": Entry("_datasets", "Embed", "a map of images, similar ones together (t-SNE)"),
    "patches": Entry("_datasets", "Patches", "the patches that a channel responds to most"),
}
_PIXELS = {
    "saliency": Entry("_attribution", "Saliency", "the pixels that change the score most"),
    "gradient": Entry("_attribution", "Gradient", "the score's gradient, signed"),
    "input-x-gradient": Entry("_attribution", "InputXGradient", "each pixel times its gradient"),
    "integrated-gradients": Entry("_attribution", "IntegratedGradients", "gradients on the way from a baseline"),
    "smoothgrad": Entry("_attribution", "Smoothgrad", "the mean gradient of noisy copies"),
    "guided": Entry("_attribution", "Guided", "guided backprop: ReLUs pass positive gradients"),
    "deconvnet": Entry("_attribution", "Deconvnet", "the deconvolutional net of a score"),
    "lrp": Entry("_attribution", "Lrp", "relevance handed back from layer to layer"),
    "occlusion": Entry("_attribution", "Occlusion", "the score's drop when a window is hidden"),
    "rise": Entry("_attribution", "Rise", "the mean score of randomly masked copies"),
    "cam": Entry("_attribution", "Cam", "Grad-CAM: a layer's maps, weighted"),
    "guided-cam": Entry("_attribution", "GuidedCam", "guided backprop times Grad-CAM"),
}
_IMAGES = {
    "ascend": Entry("_synthesis", "Ascend", "... does a class, channel or layer respond to most?"),
    "sheet": Entry("_synthesis", "Sheet", "... does each channel of a layer respond to most?"),
    "dream": Entry("_synthesis", "Dream", "... has more of what a layer sees in it? (DeepDream)"),
    "invert": Entry("_synthesis", "Invert", "... has the same features at a layer?"),
    "texture": Entry("_synthesis", "Texture", "... has the same texture as a sample?"),
}
_STYLE = {
    "style": Entry("_synthesis", "Style", "one image in the style of another, or of several"),
    "fast-style": Entry("", "", "nets that show any image in a style in one pass"),
}
_OTHERS = {
    "layers": Entry("_layers", "Layers", "what can be named inside a network, in a table"),
    "weights": Entry("", "", "list, fetch, verify or import pretrained weights"),
    "tour": Entry("_tour", "Tour", "every method on one photograph: a web page"),
}
GROUPS = {
    "What do the units respond to?": _UNITS,
    "Which pixels matter?": _PIXELS,
    "Which image ...?": _IMAGES,
    "Style": _STYLE,
    "Networks, and a first look": _OTHERS,
}
VERBS = _UNITS | _PIXELS | _IMAGES | _STYLE | _OTHERS
VERBS_OF = {
    "fast-style": {
        "train": Entry("_fast_style", "Train", "train a net that shows any image in one of several styles"),
        "apply": Entry("_fast_style", "Apply", "show images or videos in a style"),
        "list": Entry("_fast_style", "List", "list the styles of nets"),
    },
    "weights": {
        "list": Entry("_weights", "List", "list the networks, and which are on this machine"),
        "fetch": Entry("_weights", "Fetch", "fetch weights into the cache"),
        "verify": Entry("_weights", "Verify", "check cached weights against their digests"),
        "import": Entry("_weights", "Import", "put weights from a file on disk into the cache"),
    },
}


def main(args: list[str] | None = None) -> None:
    """Run the command line; errors of ours end it with one line, not with a traceback."""
    args = sys.argv[1:] if args is None else args
    if isinstance(sys.stdout, io.TextIOWrapper):  # a name that it cannot show does not end a batch
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        _parse(args).run()
    except (ValueError, RuntimeError, OSError, FloatingPointError, MissingPackageError) as error:
        if os.environ.get("JAXVIZ_TRACEBACK"):
            raise
        print(f"jaxviz: {printable(str(error), keep=chr(10))}", file=sys.stderr)
        raise SystemExit(1) from None
    except KeyboardInterrupt:
        print("jaxviz: stopped", file=sys.stderr)
        raise SystemExit(130) from None


def _parse(args: list[str]) -> "Verb":
    """Return the verb that was asked for, with its options; help and the version are printed here, and end it."""
    program, verbs, groups = "jaxviz", VERBS, GROUPS
    if args[:1] == ["--version"]:
        print(f"jaxviz {jaxviz.__version__}")
        raise SystemExit(0)
    if args and args[0] in VERBS_OF:
        verbs, program = VERBS_OF[args[0]], f"jaxviz {args[0]}"
        groups, args = {VERBS[args[0]].help.capitalize(): verbs}, args[1:]
    if args and args[0] in ("-h", "--help"):
        print(_page(program, groups))
        raise SystemExit(0)
    if verbs is VERBS and args and args[0].startswith("--tyro-"):
        _complete(args)
    if not args or args[0] not in verbs:
        _refuse(args[0] if args else None, program, list(verbs))

    with extra("cli"):
        import tyro

    entry = verbs[args[0]]
    config = (tyro.conf.OmitArgPrefixes, tyro.conf.HelptextFromCommentsOff)
    options = tyro.cli(entry.load(), prog=f"{program} {args[0]}", args=args[1:], config=config)
    _compile_cache()
    return options


def _complete(args: list[str]) -> NoReturn:
    """Print or write tyro's completion script, of all verbs at once."""
    import tyro

    config = (tyro.conf.OmitArgPrefixes, tyro.conf.OmitSubcommandPrefixes, tyro.conf.HelptextFromCommentsOff)
    tyro.cli(_any_of(VERBS), prog="jaxviz", args=args, config=config)
    raise SystemExit(0)


def _any_of(verbs: dict[str, Entry]) -> Any:
    """Return a type of all verbs, for tyro to choose from."""
    import tyro

    parts = []
    for verb, entry in verbs.items():
        within = VERBS_OF.get(verb) if verbs is VERBS else None
        kind = entry.load() if within is None else dataclasses.make_dataclass(verb, [("verb", _any_of(within))])
        parts.append(Annotated[kind, tyro.conf.subcommand(verb, description=entry.help, prefix_name=False)])
    return Union[tuple(parts)]  # noqa: UP007  # of a tuple made just now


_COMPLETION = (
    "In the shell, Tab completes verbs and options after this (or zsh, tcsh):",
    '  eval "$(jaxviz --tyro-print-completion bash)"',
)


def _page(program: str, groups: dict[str, dict[str, Entry]]) -> str:
    """Return the help that lists verbs, to fit on one screen."""
    lines = [f"usage: {program} VERB [OPTIONS], or {program} VERB --help for a verb's options"]
    for title, verbs in groups.items():
        lines += ["", title, *(f"  {verb:22}{entry.help}" for verb, entry in verbs.items())]
    if groups is GROUPS:
        lines += ["", *_COMPLETION]
    return "\n".join(lines)


def _refuse(verb: str | None, program: str, verbs: list[str]) -> NoReturn:
    """End with what is expected instead of a verb that does not exist."""
    similar = get_close_matches(verb or "", verbs)
    advice = f" (did you mean {similar[0]!r}?)" if similar else ""
    got = "none" if verb is None else f"{printable(verb)!r}{advice}"
    print(f"jaxviz: expected a verb, got {got}: `{program} --help` lists them", file=sys.stderr)
    raise SystemExit(2)


def _compile_cache() -> None:
    """Keep compiled programs between runs, beside the weights, in a folder that nobody else can write to."""
    import jax

    from jaxviz._own_folders import NotOwnError, own_folder
    from jaxviz.models._load import cache_folder

    try:
        folder = str(own_folder(cache_folder() / "xla"))
    except NotOwnError as error:
        print(f"jaxviz: programs are compiled again, and none is kept or loaded: {error}", file=sys.stderr)
        folder = None
    jax.config.update("jax_compilation_cache_dir", folder)
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)


if __name__ == "__main__":
    main()
