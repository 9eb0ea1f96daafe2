"""Routers at work: loading, tokens, cached reading, decisions."""
