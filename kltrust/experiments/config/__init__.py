"""Experiments as data: specifications, presets, algorithms by name."""
