"""jaxviz shows what a JAX vision network has learned.

Every function takes any network `net(params, images)` and is pure; images are `(n, h, w, 3)` RGB in [0, 1].
"""

from jaxviz._image import ImageError as ImageError
from jaxviz._image import load_image as load_image
from jaxviz._image import montage as montage
from jaxviz._image import normalize as normalize
from jaxviz._image import overlay as overlay
from jaxviz._image import resize as resize
from jaxviz._image import save_image as save_image
from jaxviz._interpret import capture as capture
from jaxviz._interpret import layers as layers
from jaxviz._interpret import replace as replace
from jaxviz._receptive_field import ReceptiveField as ReceptiveField
from jaxviz._receptive_field import receptive_field as receptive_field
from jaxviz._relu import with_relu as with_relu
from jaxviz._scores import channel as channel
from jaxviz._scores import energy as energy
from jaxviz._scores import logit as logit
from jaxviz._scores import neuron as neuron
from jaxviz.activation._filters import filters as filters
from jaxviz.gradient._saliency import deconvnet as deconvnet
from jaxviz.gradient._saliency import gradient as gradient
from jaxviz.gradient._saliency import guided_backprop as guided_backprop
from jaxviz.gradient._saliency import saliency as saliency
from jaxviz.models._class_names import class_index as class_index
from jaxviz.models._class_names import class_names as class_names
from jaxviz.models._load import available as available
from jaxviz.models._load import import_weights as import_weights
from jaxviz.models._load import load as load
from jaxviz.models._load import verify as verify
from jaxviz.synthesis._ascent import ascend as ascend
from jaxviz.synthesis._dream import dream as dream
from jaxviz.synthesis._minimize import minimize as minimize
