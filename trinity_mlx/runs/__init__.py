"""Runs: what the coordination machine asks for, carried out against a router and real agents."""
