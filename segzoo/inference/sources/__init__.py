"""Images of files, videos, cameras and streams, one after the other."""
