"""Builds `nano`, the embedded demonstration router: generated text in, base model, offsets and head out."""
