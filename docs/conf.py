"""The settings of the documentation site. `sphinx-build -W docs site` builds it, without the internet."""

from __future__ import annotations

import sys
from pathlib import Path

import backdrift

sys.path.insert(0, str(Path(__file__).parent / "extensions"))

project = "backdrift"
release = version = backdrift.__version__
copyright = "the authors of backdrift"

extensions = [
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
    "myst_nb",
    "sphinx_copybutton",
    # Extensions of our own, in docs/extensions.
    "docstring_equations",
    "mathml",
    "named_tuples",
    "notebook_pages",
    "plain_signatures",
    "solver_table",
]
exclude_patterns = ["extensions", "**/.ipynb_checkpoints"]
suppress_warnings = ["config.cache"]

# Pages are written in MyST's Markdown. Mathematics stands between dollars.
myst_enable_extensions = ["dollarmath", "amsmath", "colon_fence", "deflist"]
myst_heading_anchors = 3

# Notebooks are committed with their pictures, and tests run them, so the site shows them as they are.
nb_execution_mode = "off"
nb_ipywidgets_js: dict[str, dict[str, str]] = {}  # the default loads scripts from the internet
nb_merge_streams = True

# Docstrings: the arguments that every user needs come first, under "Main arguments".
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_custom_sections = [(name, "params_style") for name in ("Main arguments", "Other arguments", "Attributes")]
napoleon_use_param = False  # a field of Sphinx's own has one name, and ours may have several: "rtol, atol: ..."
default_role = "literal"
highlight_language = "none"  # blocks without a language are equations and output
autodoc_member_order = "bysource"
autodoc_inherit_docstrings = False  # a method that a base class documents stands there
autodoc_preserve_defaults = True
autodoc_typehints_format = "short"
autodoc_class_signature = "mixed"
python_use_unqualified_type_names = True
maximum_signature_line_length = 100
python_display_short_literal_types = True

html_math_renderer = "mathml"
html_theme = "furo"
html_title = "backdrift"
html_static_path = ["static"]
html_css_files = ["backdrift.css"]
html_copy_source = False
html_show_sourcelink = False
html_theme_options = {"source_repository": "", "navigation_with_keys": True}
copybutton_prompt_text = r"^\$ "
copybutton_prompt_is_regexp = True
copybutton_line_continuation_character = "\\"
