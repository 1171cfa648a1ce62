"""How Sphinx builds the documentation."""

from __future__ import annotations

import procession

project = "procession"
author = "The procession developers"
project_copyright = "2026, The procession developers"
version = release = procession.__version__

extensions = ["myst_parser"]
exclude_patterns = ["_build"]
html_theme = "furo"
html_title = f"procession {release}"

myst_heading_anchors = 3
