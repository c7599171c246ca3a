"""Overrides of a training that takes one step on two images."""

TINY_RUN = (
    "steps=1",
    "batch_size=2",
    "workers=0",
    "num_val_images=0",
    "data.train_images=2",
    "data.val_images=2",
    "data.height=64",
    "data.width=64",
)
