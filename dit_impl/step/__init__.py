"""One denoising step, stage by stage."""
