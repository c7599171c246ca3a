"""The models: one file, one paper. A builder takes a backbone and the number of classes, then settings by keyword."""
