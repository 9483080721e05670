"""Comparison of a build with an earlier one that was reviewed and kept: baselines and gates."""
