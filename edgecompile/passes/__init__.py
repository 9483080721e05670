"""One graph rewrite a file."""
