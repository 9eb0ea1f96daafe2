"""The MLX backend of trinity-mlx: Apple silicon first, and any CPU that MLX runs on."""
