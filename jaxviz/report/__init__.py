"""Pages: the tour, the map of images, patches. Written with the public functions."""

from jaxviz.report._embedding_page import embedding_page as embedding_page
