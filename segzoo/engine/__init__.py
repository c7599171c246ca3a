"""The procedures: training, evaluating, predicting, and what they write. They receive objects and know no names."""
