"""Structured pruning on the captured graph: channel groups, importance, removal with proof, recovery."""
