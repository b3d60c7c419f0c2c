"""Pages: the tour, the map of images. Written with the public functions."""
