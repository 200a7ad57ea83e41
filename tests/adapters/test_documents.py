"""Templates format finished values: they run no markup, show no hole and ask no other host for anything."""

import re
from collections.abc import Iterator
from typing import Any

import pytest
from jinja2 import UndefinedError

from pipeline.adapters.documents import TEMPLATES, escaped, render, render_texts
from tests.adapters.invoice_documents import document, full_document, page_of

HOSTILE = "<script>alert(1)</script>\"'&"


def strings_in(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Yield the place of each text of a structure."""
    if isinstance(value, str):
        yield path
    elif isinstance(value, dict):
        for key, item in value.items():
            yield from strings_in(item, (*path, key))
    elif isinstance(value, list | tuple):
        for number, item in enumerate(value):
            yield from strings_in(item, (*path, number))


def with_text(value: Any, path: tuple[Any, ...], text: str) -> Any:
    """Return a structure with another text in one place."""
    if not path:
        return text
    if isinstance(value, dict):
        return {**value, path[0]: with_text(value[path[0]], path[1:], text)}
    made = [with_text(item, path[1:], text) if number == path[0] else item for number, item in enumerate(value)]
    return made if isinstance(value, list) else tuple(made)


def test_a_missing_name_stops_the_page() -> None:
    page = page_of(document())
    del page["number"]

    with pytest.raises(UndefinedError, match="'number' is undefined"):
        render_texts("invoice.html", page)


def test_every_text_of_a_page_is_text_on_it_whatever_it_holds() -> None:
    page = page_of(full_document())
    places = list(strings_in(page))
    assert len(places) > 100

    for place in places:
        html = render_texts("invoice.html", with_text(page, place, HOSTILE))
        assert "<script" not in html, place
        assert "alert(1)</script>" not in html, place


@pytest.mark.parametrize("mark", ["&", "<", ">", '"', "'"])
def test_one_mark_alone_is_escaped(mark: str) -> None:
    page = page_of(document(customer={"account_id": "acct-7", "name": f"a{mark}b", "plan": "standard"}))

    assert f"a{mark}b" not in render_texts("invoice.html", page)
    assert escaped({"a": [("x", mark)]}) != {"a": [("x", mark)]}


def test_texts_are_rendered_as_jinja_itself_renders_them() -> None:
    page = page_of(full_document(customer={"account_id": "acct-7", "name": "<b>Ö & Co.", "plan": "standard"}))

    assert render_texts("invoice.html", page) == render("invoice.html", page)


def test_the_same_document_makes_the_same_page() -> None:
    pages = [render_texts("invoice.html", page_of(full_document())) for _ in range(2)]

    assert pages[0] == pages[1]


def test_no_template_asks_another_host_for_anything() -> None:
    templates = sorted(TEMPLATES.glob("*.html"))
    assert templates

    for template in templates:
        text = template.read_text(encoding="utf-8")
        assert not re.search(r"""(src|href)\s*=\s*["'](?!data:|#|\{)|@import|url\(|<script""", text), template.name


def test_the_invoice_page_forbids_every_request() -> None:
    assert "default-src 'none'" in render_texts("invoice.html", page_of(document()))
