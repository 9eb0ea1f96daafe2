"""Import: what other programs made of a base and a trained vector, as a bundle of our own."""
