"""The sections of the tour of a network of the user's own, in the lecture's order."""

from jaxviz.report import _own_images as images
from jaxviz.report import _own_pixels as pixels
from jaxviz.report import _own_tokens as tokens
from jaxviz.report._method import IMAGES, PIXELS, UNITS, Method
from jaxviz.report._methods import METHODS

_BUILT_IN = {method.id: method for method in METHODS}


def _own(id: str, text: str, call, pictures) -> Method:
    """Return a section that the tour of the built-in networks has, too."""
    return _BUILT_IN[id]._replace(text=text, call=call, pictures=pictures)


OWN_METHODS = (
    _own("filters", _BUILT_IN["filters"].text, images.call_filters, images.filters),
    _own(
        "neighbors",
        "A layer turns an image into numbers. Images whose numbers are alike show the same kind of thing to the "
        "network, whatever their pixels are like.",
        images.call_neighbors,
        images.neighbors,
    ),
    _own("patches", _BUILT_IN["patches"].text, images.call_top_patches, images.top_patches),
    Method(
        id="colors",
        title="Features as colors",
        question=UNITS,
        paper="Oquab et al. 2023",
        text="At each place a layer has many numbers. Their first three principal components over the photograph are "
        "shown as red, green and blue: what the network takes for the same kind of thing has the same color.",
        call=tokens.call_colors,
        pictures=tokens.colors,
    ),
    _own("occlusion", _BUILT_IN["occlusion"].text, pixels.call_occlusion, pixels.occlusion),
    _own(
        "saliency",
        "The gradient of a score with respect to the pixels: bright where a small change would change the score most. "
        "For each pixel the largest absolute value over the channels is shown.",
        pixels.call_saliency,
        pixels.saliency,
    ),
    Method(
        id="smoothgrad",
        title="SmoothGrad",
        question=PIXELS,
        paper="Smilkov et al. 2017",
        text="The gradient of noisy copies of the photograph, on average: what the noise does not change stays. It "
        "needs no ReLUs, so it works on any network.",
        call=pixels.call_smoothgrad,
        pictures=pixels.smoothgrad,
    ),
    _own(
        "guided-backprop",
        "The gradient again, but on the way back every ReLU lets only positive gradients of active units pass. What "
        "suppresses a unit is left out, and what excites it stands out sharply.",
        pixels.call_guided_backprop,
        pixels.guided_backprop,
    ),
    _own("deconvnet", _BUILT_IN["deconvnet"].text, pixels.call_deconvnet, pixels.deconvnet),
    _own(
        "grad-cam",
        "The values of a late layer that still knows where things are, each channel weighted by how much the class "
        "score rises with it. As coarse as that layer, but it tells classes apart.",
        pixels.call_grad_cam,
        pixels.grad_cam,
    ),
    Method(
        id="attention",
        title="Attention",
        question=PIXELS,
        paper="Abnar & Zuidema 2020, Chefer et al. 2021",
        text="Which patches a transformer's attention carries to its output. Rollout multiplies the attention of all "
        "blocks, whatever the class; relevance weights it, in each block, by the gradient of a class score, so that "
        "it tells classes apart.",
        call=tokens.call_attention,
        pictures=tokens.attention,
    ),
    _own(
        "ascend",
        "Images that a class or a channel responds to most, found by climbing the gradient from noise. They are "
        "optimized in a Fourier basis and shifted, scaled and turned at each step, so that only robust patterns "
        "survive.",
        images.call_ascend,
        images.ascend,
    )._replace(title="Classes and channels by gradient ascent"),
    _own(
        "dream",
        "The photograph is changed so that a layer responds more to whatever it already saw there.",
        images.call_dream,
        images.dream,
    ),
    _own(
        "invert",
        "An image is made from nothing but the features that the photograph has at one layer. What comes back is what "
        "the layer has kept.",
        images.call_invert,
        images.invert,
    ),
    _own("texture", _BUILT_IN["texture"].text, images.call_texture, images.texture),
    _own(
        "style",
        "Feature inversion and texture synthesis at once: the photograph's features at one layer, and another image's "
        "averages at several.",
        images.call_stylize,
        images.stylize,
    ),
)
assert {method.question for method in OWN_METHODS} == {UNITS, PIXELS, IMAGES}
