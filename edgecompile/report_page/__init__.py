"""The report as a self-contained HTML page, which `edgecompile report` writes; no build imports it."""
