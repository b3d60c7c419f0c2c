"""Pages: the tour, the map of images, patches. Written with the public functions."""

from jaxviz.report._embedding_page import embedding_page as embedding_page
from jaxviz.report._patches_page import patches_page as patches_page
from jaxviz.report._tour_page import tour as tour
