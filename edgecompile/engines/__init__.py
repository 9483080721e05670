"""One engine a file: runs artifacts in Python on this host."""
