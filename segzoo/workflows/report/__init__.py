"""Report pages of trainings, evaluations and comparisons."""
