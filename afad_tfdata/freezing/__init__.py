"""From a model to a verified graph: behind `afad_tfdata.freeze`."""
