"""Optional scores, computed in the same pass as the confusion matrix."""
