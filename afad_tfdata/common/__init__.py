"""Used by all folders: errors, options, files, locks, figures, progress, signals."""
