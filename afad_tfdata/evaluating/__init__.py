"""The parts of `afad_tfdata.evaluation`, which measures a model on a split."""
