"""Data sets of faces in the layouts in which they are given out, one module each."""
