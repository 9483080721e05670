"""Readers: what an artifact's bytes say, one format a file.

An artifact may come from anywhere, so that no reader loads it into its engine or executes anything in
it: each takes bytes, checks every bound, and either returns `ArtifactContents` or raises
`UnreadableArtifactError`.
"""
