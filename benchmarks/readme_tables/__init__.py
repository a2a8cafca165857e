"""The README's tables, each from what one benchmark recorded."""
