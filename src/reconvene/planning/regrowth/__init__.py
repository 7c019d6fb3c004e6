"""Channels that leave and come back under masks while a network trains."""
