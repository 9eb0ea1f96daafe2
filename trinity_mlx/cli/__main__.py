"""``python -m trinity_mlx.cli`` is ``trinity-mlx``."""

from .main import main

main(prog_name="trinity-mlx")
