"""Criteria of trained networks: a score for every channel of a group, over everything that is coupled to it."""
