"""The stages of a build, one a file: what each is made from, how it is made, and how its result is kept.

Nothing here imports torch before it must: a build that changes nothing only compares digests.
"""
