"""What things are: transcripts, decisions, artifacts, the backend protocol, errors.

Standard library only; anything may import this package and nothing here imports anything of ours above it.
"""
