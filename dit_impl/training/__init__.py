"""Training: the loop, its objectives and the adapters for new patch sizes."""
