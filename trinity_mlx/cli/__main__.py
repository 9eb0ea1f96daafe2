"""``python -m trinity_mlx.cli`` is ``trinity-mlx``."""

from .main import main
from .process import starting

with starting():
    main(prog_name="trinity-mlx")
