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

What do the units respond to?
  filters               the first layer's kernels, as pictures
  features              the features of all images of a data set, at one layer
  neighbors             the images that are most alike to the network
  approximate_neighbors most of them, among millions, with an index
  pca, tsne, umap       features in the plane; pca in more dimensions, too
  save_table            features as a Parquet or Arrow file, for pandas, DuckDB, xarray
  grid_layout           points in the plane, moved to the cells of a grid
  pca_colors            features as colors: what is alike has one color
  top_patches           the patches of images that each channel responds to most
  embedding_page        a web page of images laid out by similarity
  patches_page          a web page of patches, beside what of them excites the unit

Which pixels matter?
  gradient              the score's gradient, signed
  saliency              its largest absolute value over the channels
  input_x_gradient      each pixel times its gradient
  smoothgrad            the mean gradient of noisy copies
  integrated_gradients  the score's increase from a baseline, divided among the pixels
  guided_backprop       the gradient, with ReLUs that pass only positive ones of active units
  deconvnet             the same, of active units or not
  lrp                   the score, handed back from layer to layer
  occlusion             how much the score drops when a window is hidden
  rise                  the mean score of randomly masked copies
  grad_cam              a layer's maps, weighted by how much the score rises with them
  guided_grad_cam       guided backprop times Grad-CAM
  attention_rollout     how much of each patch a transformer's attention carries to the output
  attention_relevance   the same, weighted by a score's gradient
  deletion, insertion   how the score falls, or rises, as the pixels that a map ranks first go or come
  pointing_game         whether a map's largest value lies on the object
  randomize             a network whose upper layers are shuffled
  sanity_check          how much a map changes with that
  rank_correlation      Spearman's correlation of maps

Which image would ...?
  ascend                ... a score be highest for?
  sheet                 ... each channel of a layer respond to most?
  facets                ... show one kind of what a unit responds to? (where to start)
  activation_grid       ... show what each position of an image's map says?
  fool                  ... be taken for another class, and look the same?
  dream                 ... have more of what a layer sees in it? (DeepDream)
  dream_zoom            the same, falling into the image: frames of a film
  invert                ... have the same features?
  texture, efros_leung  ... have the same texture as a sample?
  stylize               ... have the content of one image in the style of another?
  restyle, style_net    ... be in a style that a net has learned, in one pass?
  train_style_net       train such a net; init_style_net, load_style_net, save_style_net, export_style_net
  sweep                 a synthesis for each of several values of an option
  recipe                options of `ascend` as a paper published them
  minimize              the loop below all of these, for a loss of your own
  pixels, fourier, natural, maco
                        bases: what is optimized instead of an image
  jitter_scale_rotate, crops, compose
                        transforms: what a picture has to survive
  l2, total_variation   penalties
  decay, blurring, small_norms, small_contributions
                        what is done to an image after each step
  lbfgs, muon           optimizers

Scores: what to explain, or to maximize
  logit, probability    a class, by number or name
  channel, neuron       a channel of a layer; one unit
  direction             a direction in the space of a layer's channels
  energy                a layer as a whole
  match_features, match_grams
                        likeness to an image, in content or style
  resemblance           likeness to a guide, wherever it fits best
  caricature            what an image has at a layer, and more of it
  diversity             how different the images of a batch are
  score                 a function of your own
  gram                  the Gram matrices of features

Networks
  load, available       pretrained networks
  verify, import_weights
                        where cached weights come from; weights from a file
  class_names, class_index
                        ImageNet's classes
  layers                what can be named inside a network
  named                 the same network, its modules' outputs named
  capture, replace      the values inside it, taken out or changed
  with_relu             the same network, with another backward rule of its ReLUs
  receptive_field       the pixels that a unit sees
  accelerate, hoist     the same values sooner

Images and pages
  open_source           images from a folder, a list, an array or a data set
  load_image, save_image
                        files
  resize, blur, montage arrays
  normalize, overlay, draw
                        maps as pictures
  plot                  a figure: images, maps, curves side by side; PNG, SVG, PDF
  save_video            frames as an mp4 file
  tour                  every method on one photograph: a web page
"""

import functools
import logging
import typing

logging.getLogger("jaxviz").addHandler(logging.NullHandler())

if typing.TYPE_CHECKING:
    from jaxviz._public import *  # noqa: F403

    __version__: str
else:
    # JAX alone takes a second to import, and neither `jaxviz --help` nor `jaxviz.__version__` needs it; nor does a map
    # need what makes images.
    def __getattr__(name):
        """Import a public name, and what it needs, when it is first used."""
        if name == "__version__":
            from importlib.metadata import version

            return version("jaxviz-cnn")
        if name == "__all__":
            return sorted(_places())
        from importlib import import_module
        from importlib.util import find_spec

        if name not in _places():
            if name.startswith("_") or find_spec(f"jaxviz.{name}") is None:
                raise AttributeError(f"module 'jaxviz' has no attribute {name!r}")
            return import_module(f"jaxviz.{name}")  # a folder
        # What the user has patched in the meantime stays.
        return globals().setdefault(name, getattr(import_module(_places()[name]), name))

    def __dir__():
        """List the public names, for completion in editors and notebooks."""
        return [*sorted(_places()), "__version__"]

    @functools.cache
    def _places():
        """Return the module of each public name, as `_public` says, which is read and not run."""
        import re
        from importlib.util import find_spec

        source = find_spec("jaxviz._public").loader.get_source("jaxviz._public")
        return {name: module for module, name in re.findall(r"^from (\S+) import (\w+) as", source, re.M)}
