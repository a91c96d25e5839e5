"""The recipe behind the embedded model: procedural pictures, captions, VAE and DiT training, and the verifier that measures them."""
