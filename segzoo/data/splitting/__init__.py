"""Division of a data set into splits or folds."""
