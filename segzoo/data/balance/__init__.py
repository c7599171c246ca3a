"""Class imbalance: counts of labels, class weights and samplers."""
