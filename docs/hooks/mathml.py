"""MkDocs hook: equations become MathML while the pages are built, so that a page needs no script and no network."""

from __future__ import annotations

import html
import re
from typing import Any

from math_core import LatexError, LatexToMathML
from mkdocs.exceptions import PluginError

# What pymdownx.arithmatex makes of $...$ and $$...$$ in its generic form.
EQUATION = re.compile(r'<(span|div) class="arithmatex">\\([(\[])(.*?)\\[)\]]</\1>', re.DOTALL)
CONVERTER = LatexToMathML(fancy_error=False)


def equations(page: str, name: str) -> str:
    """Return the HTML of a page with every equation as MathML.

    Args:
        page: HTML with equations as pymdownx.arithmatex marks them.
        name: the page's file, for messages.

    Raises: PluginError, naming page and equation, when an equation is not LaTeX.
    """

    def convert(found: re.Match[str]) -> str:
        tag, opening, text = found.groups()
        latex = html.unescape(text).strip()
        try:
            math = CONVERTER.convert_with_local_state(latex, displaystyle=opening == "[")
        except LatexError as error:
            raise PluginError(f"{name}: the equation '{latex}' cannot be read: {error}") from error
        return f'<{tag} class="equation">{math}</{tag}>'

    return EQUATION.sub(convert, page)


def on_page_content(content: str, page: Any, **_: object) -> str:
    """Convert a page's equations (called by MkDocs on the HTML of each page)."""
    return equations(content, page.file.src_uri)
