"""The tables of the README and of docs/results, each from what one benchmark recorded."""
