"""From a data set to batches: the parts of `afad_tfdata.input_fn`."""
