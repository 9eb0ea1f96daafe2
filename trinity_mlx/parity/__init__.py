"""Proof that two systems compute the same: stage by stage for an adapter, value by value for a route."""
