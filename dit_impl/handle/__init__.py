"""What flows on the DIT wire: a model with the meaning of its latents, times and patches."""
