"""Statistics of the images and labels of a data set."""
