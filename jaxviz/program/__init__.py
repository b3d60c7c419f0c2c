"""Reading and rewriting the program of a network: values by name, ReLUs, receptive fields. Knows no method."""

from jaxviz.program._edit import capture as capture
from jaxviz.program._edit import layers as layers
from jaxviz.program._edit import replace as replace
from jaxviz.program._modules import named as named
from jaxviz.program._receptive_field import ReceptiveField as ReceptiveField
from jaxviz.program._receptive_field import receptive_field as receptive_field
from jaxviz.program._with_relu import with_relu as with_relu
