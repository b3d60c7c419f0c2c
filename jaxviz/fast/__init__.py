"""The same values, faster: convolutions and pools in forms that suit CPUs. Independent of the methods."""

from jaxviz.fast._swap import accelerate as accelerate
from jaxviz.fast._swap import hoist as hoist
