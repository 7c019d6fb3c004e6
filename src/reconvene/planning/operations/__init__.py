"""Replacement of operations: what one loses, what it costs, which is chosen."""
