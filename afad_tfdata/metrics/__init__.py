"""What predictions are worth in use: decisions about age, and error by group."""
