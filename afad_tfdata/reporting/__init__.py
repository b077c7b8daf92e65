"""The parts of `afad_tfdata.report`, which writes a page to look at."""
