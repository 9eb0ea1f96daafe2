"""What the logits mean: pure functions over contracts, with no model and no network."""
