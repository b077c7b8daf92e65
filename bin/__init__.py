"""The commands: each module is a program, `afad-NAME` and `python -m` of it."""
