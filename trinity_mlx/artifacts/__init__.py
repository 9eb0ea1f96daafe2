"""What lies on disk: bases, bundles, safetensors files and their hashes."""
