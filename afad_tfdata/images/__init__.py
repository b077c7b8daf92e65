"""Images: decoding, resizing, normalisation, augmentation, drawn faces."""
