"""Parts that report pages share: plots, bars, matrices and images."""
