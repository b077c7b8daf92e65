"""From a data set to batches: behind `afad_tfdata.input_fn`."""
