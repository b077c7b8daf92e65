"""From a folder of images to a data set: behind `afad_tfdata.records`."""
