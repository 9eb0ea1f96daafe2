"""Calling models: one module a provider, found by name, and the client that retries them."""
