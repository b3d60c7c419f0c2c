"""Networks, their weights and the names of their classes."""

from jaxviz.models._class_names import class_index as class_index
from jaxviz.models._class_names import class_names as class_names
from jaxviz.models._fetch import WeightsUnavailableError as WeightsUnavailableError
from jaxviz.models._load import Pretrained as Pretrained
from jaxviz.models._load import Provenance as Provenance
from jaxviz.models._load import RefusedWeightsError as RefusedWeightsError
from jaxviz.models._load import available as available
from jaxviz.models._load import import_weights as import_weights
from jaxviz.models._load import load as load
from jaxviz.models._load import verify as verify
from jaxviz.models._network import Network as Network
from jaxviz.models._pickles import UnsafeFileError as UnsafeFileError
from jaxviz.models._trees import TensorFileError as TensorFileError
