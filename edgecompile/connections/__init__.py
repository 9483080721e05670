"""One kind of place a file: where runners run, and how it is reached."""
