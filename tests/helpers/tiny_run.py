"""Overrides of a training of one step on two images, without its page."""

TINY_RUN = (
    "steps=1",
    "batch_size=2",
    "workers=0",
    "num_val_images=0",
    "report=false",
    "data.train_images=2",
    "data.val_images=2",
    "data.height=64",
    "data.width=64",
)
