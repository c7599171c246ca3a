"""Labels of images that are too large to hold in memory."""
