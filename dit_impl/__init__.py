"""The diffusion transformer in plain PyTorch: patches, positions, blocks, flow, sampling, checkpoints, training. Imports no host."""
