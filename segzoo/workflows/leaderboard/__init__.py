"""Rankings of runs by their scores and measured times."""
