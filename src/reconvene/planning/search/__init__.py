"""Search of widths and bits while a network trains: phases, limits, checkpoint."""
