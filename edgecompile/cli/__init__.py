"""The command line: each command in its own file; parse and print, no logic."""
