"""Sphinx: `sphinx-build -W --keep-going -n docs build/docs` in an environment with `pip install '.[docs]'`."""

import sys
from importlib.util import find_spec
from pathlib import Path

import schuss

sys.path.insert(0, str(Path(__file__).parent / "extensions"))

project = "schuss"
author = "The schuss developers"
copyright = author
version = release = schuss.__version__

extensions = [
    "myst_parser",
    "numpydoc",
    "pages",
    "sphinx.ext.autodoc",
    "sphinx.ext.mathjax",
    "sphinx_copybutton",
]
source_suffix = {".md": "markdown", ".myst": "markdown"}  # what is written by hand, and what is made
exclude_patterns = ["extensions", "static"]

myst_enable_extensions = ["attrs_inline", "colon_fence", "deflist", "dollarmath", "fieldlist"]
myst_heading_anchors = 4

# Types stand in the docstrings in words; signatures with them would be longer than the sentences.
autodoc_typehints = "none"
autodoc_member_order = "bysource"
autosummary_generate = False  # numpydoc would list members in tables; they follow their class
autodoc_inherit_docstrings = False
autodoc_default_options = {"exclude-members": "__init__"}

numpydoc_show_class_members = False
numpydoc_xref_param_type = False
#: All but these. They ask for long texts, examples, returns and further reading on everything; for capitals after symbols, and
#: stops after formulas; for parameters in the order of the signature, where they are keywords in the order of reading; and for
#: the options of all optimizers once more in each: they stand in `Optimizer`.
numpydoc_validation_checks = {
    "all", "ES01", "EX01", "GL02", "GL08", "PR01", "PR02", "PR03", "PR08", "PR09", "RT01", "SA01", "SS02", "SS03", "YD01",
}  # fmt: skip

copybutton_prompt_text = r">>> |\.\.\. |\$ "
copybutton_prompt_is_regexp = True

html_theme = "furo"
html_title = f"schuss {version}"
# Loaded as an extension, this package forbids parallel builds; taken for its files, it lets the site load nothing from outside.
mathjax = find_spec("sphinx-mathjax-offline")
assert mathjax is not None
assert mathjax.origin is not None
mathjax_path = "mathjax/tex-chtml.js"
html_static_path = ["static", str(Path(mathjax.origin).parent / "static")]
html_css_files = ["schuss.css"]
html_copy_source = False
html_theme_options = {"navigation_with_keys": True}
pygments_style = "friendly"
