"""The hook that turns the pages' equations into MathML."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest
from mkdocs.exceptions import PluginError


@pytest.fixture(scope="module")
def hook() -> ModuleType:
    path = Path(__file__).parents[2] / "docs" / "hooks" / "mathml.py"
    spec = importlib.util.spec_from_file_location("mathml_hook", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_inline_and_displayed_equations_become_mathml_and_the_rest_stays(hook):
    page = (
        r'<p>If <span class="arithmatex">\(x &lt; y\)</span>, then <code>\(z\)</code>.</p>'
        '\n<div class="arithmatex">\\[\n\\frac{a}{b}\n\\]</div>'
    )
    assert hook.equations(page, "page.md") == (
        '<p>If <span class="equation"><math><mi>x</mi><mo>&lt;</mo><mi>y</mi></math></span>,'
        r" then <code>\(z\)</code>.</p>"
        '\n<div class="equation"><math display="block"><mfrac><mi>a</mi><mi>b</mi></mfrac></math></div>'
    )


def test_an_equation_that_is_not_latex_names_its_page(hook):
    with pytest.raises(PluginError, match=r"page\.md: the equation '\\nosuch\{x\}' cannot be read"):
        hook.equations(r'<span class="arithmatex">\(\nosuch{x}\)</span>', "page.md")
