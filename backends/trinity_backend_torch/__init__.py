"""The torch backend of trinity-mlx: CUDA, MPS and CPU."""
