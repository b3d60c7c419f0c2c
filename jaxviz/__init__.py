"""jaxviz shows what a JAX vision network has learned.

Every function takes any network `net(params, images)` and is pure; images are `(n, h, w, c)` in [0, 1], RGB where c is
3.

Long-running functions take a `callback`, called as `callback(found)` with the result so far, of the type that the
function returns (for `dream_zoom` and `sweep`, which return images, that of the current run). `found.what` names the
stage, and `found.done` of `found.total` steps or images are done. If the callback returns true, the run ends with the
result so far. `every`, a whole number of at least 1, is the number of steps, or batches of a data set, between
callbacks; there is one at the end, too.

`progress=True` shows a bar with step, loss and time left, in a notebook with the growing picture; results show
themselves, and `plot` makes figures of them. What takes long otherwise (fetching weights, compiling) and which images
are skipped is told to `logging.getLogger("jaxviz")`.

Results computed from arrays by programs that compose under `jit` are `jax.Array`s; results gathered on the host from
data sets and files, or computed there from features (`pca`, `pca_colors`, `tsne`, `umap`, `neighbors`, `grid_layout`),
are NumPy arrays.
"""

import logging
import typing

logging.getLogger("jaxviz").addHandler(logging.NullHandler())

if typing.TYPE_CHECKING:
    from jaxviz._public import *  # noqa: F403

    __version__: str
else:
    # JAX alone takes a second to import, and neither `jaxviz --help` nor `jaxviz.__version__` needs it.
    def __getattr__(name):
        """Import the public names when the first of them is used."""
        if name == "__version__":
            from importlib.metadata import version

            return version("jaxviz-cnn")
        if name == "__all__":
            return _public_names()
        if not name.startswith("_"):
            _public_names()
        if name not in globals():
            raise AttributeError(f"module 'jaxviz' has no attribute {name!r}")
        return globals()[name]

    def __dir__():
        """List the public names, for completion in editors and notebooks."""
        return [*_public_names(), "__version__"]

    def _public_names():
        from importlib import import_module

        found = {name: value for name, value in vars(import_module("jaxviz._public")).items() if name[0] != "_"}
        for name, value in found.items():
            globals().setdefault(name, value)  # one that the user has patched stays
        return sorted(found)
