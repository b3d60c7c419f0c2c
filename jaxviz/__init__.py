"""jaxviz shows what a JAX vision network has learned.

Every function takes any network `net(params, images)` and is pure; images are `(n, h, w, 3)` RGB in [0, 1].
"""

from jaxviz._interpret import capture as capture
from jaxviz._interpret import layers as layers
from jaxviz._interpret import replace as replace
from jaxviz._relu import with_relu as with_relu
from jaxviz._scores import channel as channel
from jaxviz._scores import energy as energy
from jaxviz._scores import logit as logit
from jaxviz._scores import neuron as neuron
