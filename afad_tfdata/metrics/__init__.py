"""What predictions are worth: metrics, intervals, decisions about age, corrections."""
