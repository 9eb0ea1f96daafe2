"""Pools of agents: their files, secrets and what a run may use."""
