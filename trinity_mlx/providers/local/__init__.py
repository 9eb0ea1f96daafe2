"""The provider that runs a model in this process."""
