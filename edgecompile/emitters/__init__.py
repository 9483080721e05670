"""One artifact format a file; files that begin with `_` are parts of an emitter."""
