"""Complete checks of data sets."""
