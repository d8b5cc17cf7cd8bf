"""One file per cause: a function from the evidence to a finding, or None where nothing speaks for it."""
