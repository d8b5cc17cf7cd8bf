"""The paper's process: ᾱ, the equations that follow from it, and the chains of times. No network, no files."""
