"""Plans of widths and bits: what rounding weights and layer inputs loses, and who decides."""
