"""The parts of `afad_tfdata.input_fn`, which makes batches of a data set."""
