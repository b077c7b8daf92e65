"""The parts of `afad_tfdata.report`, which writes one HTML page."""
