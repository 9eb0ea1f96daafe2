"""Runtime profiles, and the backends that they name."""
