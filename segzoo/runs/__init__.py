"""Run directories: opening, locking, comparing and describing them."""
