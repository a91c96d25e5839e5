"""The diffusion transformer in plain PyTorch. Imports no host. Its folders are the pipeline, bottom up:
drawing, tokens, model, sampling, handle, step, sources, cost, see, training."""
