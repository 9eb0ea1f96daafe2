"""The server: a pool of models behind the interfaces that programs already speak (docs/serving.md)."""
