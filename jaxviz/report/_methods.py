"""The sections of the tour, in the lecture's order. To add a method to the tour, add an entry to `METHODS`."""

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
        text="The kernels of the first layer act on pixels, so they can be shown as pictures. Training on nearly any "
        "photographs yields oriented edges and opponent colors.",
        call=call_filters,
        pictures=filters,
    ),
    Method(
        id="neighbors",
        title="Nearest neighbors and t-SNE",
        question=UNITS,
        paper="Krizhevsky, Sutskever & Hinton 2012; van der Maaten & Hinton 2008",
        text="The last layer before the classifier turns an image into 1280 numbers. Images with similar numbers show "
        "the same kind of thing, whatever their pixels; compared pixel by pixel, it is colors and light that count.",
        call=call_neighbors,
        pictures=neighbors,
    ),
    Method(
        id="patches",
        title="Maximally activating patches",
        question=UNITS,
        paper="Zeiler & Fergus 2013",
        text="Run many images through the network and keep, for each channel, those that it responds to most, cropped "
        "to what the unit sees. Each row is a channel: what its patches have in common is what it detects.",
        call=call_top_patches,
        pictures=top_patches,
    ),
    Method(
        id="occlusion",
        title="Occlusion",
        question=PIXELS,
        paper="Zeiler & Fergus 2013",
        text="Hide a part of the photograph, run the network again, and move on to the next part: where the network "
        "becomes less certain, something it needs was hidden. No gradients, no assumptions, and the most computation.",
        call=call_occlusion,
        pictures=occlusion,
    ),
    Method(
        id="saliency",
        title="Saliency",
        question=PIXELS,
        paper="Simonyan, Vedaldi & Zisserman 2013",
        text="The gradient of a class score with respect to the pixels: bright where a small change would change the "
        "score most. Each pixel shows the largest absolute value over the three colors.",
        call=call_saliency,
        pictures=saliency,
    ),
    Method(
        id="guided-backprop",
        title="Guided backprop",
        question=PIXELS,
        paper="Springenberg, Dosovitskiy, Brox & Riedmiller 2014",
        text="The gradient again, but in the backward pass every ReLU passes only positive gradients of active units. "
        "What suppresses a unit is left out, and what excites it stands out sharply: eyes, whiskers, single hairs.",
        call=call_guided_backprop,
        pictures=guided_backprop,
    ),
    Method(
        id="deconvnet",
        title="Deconvnet",
        question=PIXELS,
        paper="Zeiler & Fergus 2013",
        text="The older sibling of guided backprop: every ReLU passes positive gradients, whether its unit was active "
        "or not. The pictures are less sharp, since they include more that the unit did not see.",
        call=call_deconvnet,
        pictures=deconvnet,
    ),
    Method(
        id="grad-cam",
        title="Grad-CAM",
        question=PIXELS,
        paper="Selvaraju et al. 2017",
        text="The last maps of the network, which still know where things are, each weighted by how much the class "
        "score rises with it. Coarse, since these maps are 7x7, but it distinguishes classes.",
        call=call_grad_cam,
        pictures=grad_cam,
    ),
    Method(
        id="ascend",
        title="Channels by gradient ascent",
        question=IMAGES,
        paper="Olah, Mordvintsev & Schubert 2017",
        text="Images that a channel responds to most, found by gradient ascent from noise. They are optimized in a "
        "Fourier basis and shifted, scaled and rotated at each step, so that only robust patterns survive.",
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
        text="An image is reconstructed from nothing but the photograph's features at one layer. It shows what the "
        "layer keeps: nearly every hair low in the network; objects higher up, but no longer their exact positions "
        "and colors.",
        call=call_invert,
        pictures=invert,
    ),
    Method(
        id="texture",
        title="Texture synthesis",
        question=IMAGES,
        paper="Gatys, Ecker & Bethge 2015",
        text="How strongly each pair of channels in a layer responds together, averaged over the image, describes a "
        "texture, but not where anything is. An image is optimized from noise until it has the sample's averages.",
        call=call_texture,
        pictures=texture,
    ),
    Method(
        id="style",
        title="Neural style",
        question=IMAGES,
        paper="Gatys, Ecker & Bethge 2016",
        text="Feature inversion and texture synthesis combined: the photograph's features at one layer, and another "
        "image's averages at five.",
        call=call_stylize,
        pictures=stylize,
    ),
    Method(
        id="fast-style",
        title="Fast style",
        question=IMAGES,
        paper="Johnson, Alahi & Fei-Fei 2016; Dumoulin, Shlens & Kudlur 2017",
        text="A second network learns, from many photographs, to do in one pass what neural style does in hundreds of "
        "steps. This one has learned five styles, which share all kernels and differ only in scales and offsets.",
        call=call_fast_style,
        pictures=fast_style,
    ),
)
