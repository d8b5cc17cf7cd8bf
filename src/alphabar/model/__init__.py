"""A network made into a probabilistic step."""
