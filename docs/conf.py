"""How Sphinx builds the documentation."""

from __future__ import annotations

import procession

project = "procession"
author = "The procession developers"
project_copyright = "2026, The procession developers"
version = release = procession.__version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
exclude_patterns = ["_build"]
html_theme = "furo"
html_title = f"procession {release}"

default_role = "code"  # a name in single backquotes, as our docstrings write it
autodoc_member_order = "bysource"
autodoc_typehints = "none"  # the signatures show them as they are written
autodoc_preserve_defaults = True
myst_heading_anchors = 3
