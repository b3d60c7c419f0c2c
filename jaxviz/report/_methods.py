"""The sections of the tour, in the lecture's order. Adding a method to it is adding an entry to `METHODS`."""

from jaxviz.report._images import (
    ascend,
    call_ascend,
    call_dream,
    call_fast_style,
    call_invert,
    call_stylize,
    call_texture,
    dream,
    fast_style,
    invert,
    stylize,
    texture,
)
from jaxviz.report._method import IMAGES, PIXELS, UNITS, Method
from jaxviz.report._pixels import (
    call_deconvnet,
    call_grad_cam,
    call_guided_backprop,
    call_occlusion,
    call_saliency,
    deconvnet,
    grad_cam,
    guided_backprop,
    occlusion,
    saliency,
)
from jaxviz.report._units import call_filters, call_neighbors, call_top_patches, filters, neighbors, top_patches

METHODS = (
    Method(
        id="filters",
        title="First-layer filters",
        question=UNITS,
        paper="Krizhevsky, Sutskever & Hinton 2012",
        text="The kernels of the first layer work on pixels, so they can be shown as pictures. Oriented edges and "
        "opponent colors come out of training on nearly any photographs.",
        call=call_filters,
        pictures=filters,
    ),
    Method(
        id="neighbors",
        title="Nearest neighbors and t-SNE",
        question=UNITS,
        paper="Krizhevsky, Sutskever & Hinton 2012; van der Maaten & Hinton 2008",
        text="The last layer in front of the classifier turns an image into 1280 numbers. Images whose numbers are "
        "alike show the same kind of thing, whatever their pixels are like; pixel by pixel, it is the colors and the "
        "light that count.",
        call=call_neighbors,
        pictures=neighbors,
    ),
    Method(
        id="patches",
        title="Maximally activating patches",
        question=UNITS,
        paper="Zeiler & Fergus 2013",
        text="Run many images through the network, and keep for each channel those that it responds to most, cut to "
        "just what the unit sees. A row is a channel: what its patches have in common is what it is there for.",
        call=call_top_patches,
        pictures=top_patches,
    ),
    Method(
        id="occlusion",
        title="Occlusion",
        question=PIXELS,
        paper="Zeiler & Fergus 2013",
        text="Hide a part of the photograph, ask again, and go on to the next part: where the network becomes less "
        "sure, something that it needs was hidden. No gradients, nothing to take on trust, and the most work.",
        call=call_occlusion,
        pictures=occlusion,
    ),
    Method(
        id="saliency",
        title="Saliency",
        question=PIXELS,
        paper="Simonyan, Vedaldi & Zisserman 2013",
        text="The gradient of a class score with respect to the pixels: bright where a small change would change the "
        "score most. For each pixel the largest absolute value over the three colors is shown.",
        call=call_saliency,
        pictures=saliency,
    ),
    Method(
        id="guided-backprop",
        title="Guided backprop",
        question=PIXELS,
        paper="Springenberg, Dosovitskiy, Brox & Riedmiller 2014",
        text="The gradient again, but on the way back every ReLU lets only positive gradients of active units pass. "
        "What suppresses a unit is left out, and what excites it stands out sharply: eyes, whiskers, single hairs.",
        call=call_guided_backprop,
        pictures=guided_backprop,
    ),
    Method(
        id="deconvnet",
        title="Deconvnet",
        question=PIXELS,
        paper="Zeiler & Fergus 2013",
        text="The older sibling of guided backprop: positive gradients pass every ReLU, whether its unit was active or "
        "not. The pictures are less sharp, since more that the unit did not see comes along.",
        call=call_deconvnet,
        pictures=deconvnet,
    ),
    Method(
        id="grad-cam",
        title="Grad-CAM",
        question=PIXELS,
        paper="Selvaraju et al. 2017",
        text="The last maps of the network, which still know where things are, each weighted by how much the class "
        "score rises with it. Coarse, since those maps are 7x7, but it tells classes apart.",
        call=call_grad_cam,
        pictures=grad_cam,
    ),
    Method(
        id="ascend",
        title="Channels by gradient ascent",
        question=IMAGES,
        paper="Olah, Mordvintsev & Schubert 2017",
        text="Images that a channel responds to most, found by climbing the gradient from noise. They are optimized in "
        "a Fourier basis and shifted, scaled and turned at each step, so that only robust patterns survive.",
        call=call_ascend,
        pictures=ascend,
    ),
    Method(
        id="dream",
        title="DeepDream",
        question=IMAGES,
        paper="Mordvintsev, Olah & Tyka 2015",
        text="The photograph is changed so that a layer responds more to whatever it already saw there, from coarse to "
        "fine. High layers have seen many animals.",
        call=call_dream,
        pictures=dream,
    ),
    Method(
        id="invert",
        title="Feature inversion",
        question=IMAGES,
        paper="Mahendran & Vedaldi 2014",
        text="An image is made from nothing but the features that the photograph has at one layer. What comes back is "
        "what the layer has kept: nearly every hair low in the network; higher up things, but no longer exactly where "
        "they were and in which colors.",
        call=call_invert,
        pictures=invert,
    ),
    Method(
        id="texture",
        title="Texture synthesis",
        question=IMAGES,
        paper="Gatys, Ecker & Bethge 2015",
        text="How strongly each two channels of a layer respond together, on average over the image, says what a "
        "texture is like, and not where anything is. An image is made from noise until it has the sample's averages.",
        call=call_texture,
        pictures=texture,
    ),
    Method(
        id="style",
        title="Neural style",
        question=IMAGES,
        paper="Gatys, Ecker & Bethge 2016",
        text="Feature inversion and texture synthesis at once: the photograph's features at one layer, and another "
        "image's averages at five.",
        call=call_stylize,
        pictures=stylize,
    ),
    Method(
        id="fast-style",
        title="Fast style",
        question=IMAGES,
        paper="Johnson, Alahi & Fei-Fei 2016; Dumoulin, Shlens & Kudlur 2017",
        text="A second network learns, on many photographs, to make in one pass what neural style makes in hundreds of "
        "steps. This one has learned five styles, which share all of its kernels and differ in scale and offset.",
        call=call_fast_style,
        pictures=fast_style,
    ),
)
