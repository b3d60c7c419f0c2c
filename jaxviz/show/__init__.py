"""Results as pictures: in notebooks, in figures, and as they grow. Knows arrays and images, no network."""

from jaxviz.show._bar import ProgressBar as ProgressBar
from jaxviz.show._plot import plot as plot
