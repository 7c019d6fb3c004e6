"""The ``litert`` runtime."""
