"""The parts of `afad_tfdata.prediction`, which runs images through a frozen graph."""
