"""Searches as pure functions of scores: which trials go on, stop, begin or are copied."""
