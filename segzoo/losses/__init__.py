"""Training losses, and the distillation term that can be added to them."""
