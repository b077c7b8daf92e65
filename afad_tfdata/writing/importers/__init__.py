"""Data sets of faces in the layouts in which they are published, one module each."""
