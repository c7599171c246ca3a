"""An HTTP service that segments images, and its page."""
