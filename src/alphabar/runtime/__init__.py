"""How a run is described."""
