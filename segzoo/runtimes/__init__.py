"""Ways of running a network: each builder turns one into a call from images to scores."""
