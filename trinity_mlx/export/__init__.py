"""Export: from a base and a trained vector to a sealed bundle, tile by tile and resumable."""
