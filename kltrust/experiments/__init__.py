"""Names as strings, files, compilation: everything that the pure packages leave to their caller."""
