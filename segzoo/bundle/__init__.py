"""What travels with an exported network so that it runs without segzoo and without torch; ``predict.py`` is copied, not imported."""
