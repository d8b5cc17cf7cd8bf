"""From losses and weights to a run."""
