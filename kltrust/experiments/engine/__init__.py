"""Compiled functions over lanes, devices and hosts."""
