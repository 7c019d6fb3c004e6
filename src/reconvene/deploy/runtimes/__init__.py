"""Runtimes: a file or a folder each, which declares everything that the rest of the package asks about it."""
