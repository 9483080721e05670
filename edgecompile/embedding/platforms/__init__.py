"""The platforms: `web` is `web.py`, class `Web`, and its templates are in `templates/web/`."""
