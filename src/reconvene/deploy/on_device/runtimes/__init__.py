"""One file for each runtime; ``load`` gives a function from float32 ``[1, C, h, w]`` to scores ``[1, classes]``."""
