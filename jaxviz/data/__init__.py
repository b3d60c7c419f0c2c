"""Sources of images, batches, sharding over devices and processes."""
