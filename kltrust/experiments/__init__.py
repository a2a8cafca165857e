"""Names as strings, files, compilation: all that the pure rooms leave to their caller."""
