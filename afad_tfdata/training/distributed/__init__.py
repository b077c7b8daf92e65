"""Several devices and several machines in one training."""
