"""Actions of tools/dataset.py: procedures on a data set, registered by name."""
