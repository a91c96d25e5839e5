"""What a model costs: FLOPs and parameters, as numbers and as pictures."""
