"""Writing: from a folder of images to a data set; `afad_tfdata.records` calls it."""
