"""The transformers of this library, their text encoder and VAE, and what a stage is."""
