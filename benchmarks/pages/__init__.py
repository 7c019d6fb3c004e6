"""Pages of the documentation, generated from the results on disk: ``python benchmarks/pages [--check] [PAGE ...]``."""

PAGES = (
    "api",
    "bits",
    "compress_orders",
    "coverage",
    "distillation",
    "encrypted_time",
    "evidence",
    "format_matrix",
    "killed_recipe",
    "latency",
    "memory",
    "nuclei",
    "pitch",
    "qat",
    "readme",
    "replace_operations",
    "search_time",
    "speed",
    "spoken_digits",
    "trained_one_shot",
)
"""Modules of this folder. Each has ``update(write=True)``, which returns whether the page was old."""
