"""The MLX backend of trinity-mlx: Apple silicon first, and any CPU that MLX runs on.

MLX may shorten float32 products to TF32 on hardware that has it, and decides that once in a process, when it first
computes. Float32 means float32 here, so importing this package says no to that. (A program that has computed with MLX
before has decided already; the self-check of a lane measures what came of it.)
"""

import os

os.putenv("MLX_ENABLE_TF32", "0")
