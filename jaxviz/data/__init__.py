"""Sources of images, batches, sharding over devices and processes."""

from jaxviz.data._base import Source as Source
from jaxviz.data._source import open_source as open_source
