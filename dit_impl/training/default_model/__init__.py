"""The recipe behind the default model: drawn scenes, their reader, VAE and DiT training, evaluation."""
