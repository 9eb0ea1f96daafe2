"""Traces of runs: written as they happen, read back, verified, shown and exported; docs/traces.md is the format."""
