"""The training loop and all that it keeps: behind `afad_tfdata.trainer`."""
