"""Results of predictions on disk."""
