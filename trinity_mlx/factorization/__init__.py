"""The mathematics of singular-value fine-tuning, in numpy float64."""
