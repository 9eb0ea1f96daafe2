"""Tools for files: hashes, paths, shipped data, strict models, safetensors."""
