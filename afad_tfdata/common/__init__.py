"""What everything rests on: errors, options, files, progress, signals."""
