"""Parts that a caller passes to `trainer.train`: checked, adapted, told apart."""
