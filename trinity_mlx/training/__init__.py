"""Training: from tables of recorded answers to a sealed bundle, and whether that is worth it."""
