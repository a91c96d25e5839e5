"""One denoising step by its stages."""
