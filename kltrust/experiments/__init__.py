"""Names as strings, files, compilation: all that the pure layers below leave to their caller."""
