"""Training loop, its state and its logs."""
