"""What knows no diffusion: errors, registries, tensors, randomness, storage."""
