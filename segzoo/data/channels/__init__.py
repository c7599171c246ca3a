"""Images with any number of channels, of 8 or 16 bits."""
