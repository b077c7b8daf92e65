"""Commands: each is a program here, `afad-NAME`, and `python -m` of its module."""
