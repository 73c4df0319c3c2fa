"""What a patent document's tree says: number, title, abstract, claims, codes, dates, family, in a preferred language.

EP full text writes its bibliography in B-tags (B110 number, B140 publication date, B541 and B542 language and title);
the others write it in words (`publication-reference`, `invention-title`). Both are looked for.
"""

from __future__ import annotations

import datetime
import re
from collections.abc import Collection, Iterable, Iterator, Sequence
from typing import Any
from xml.etree.ElementTree import Element

COLUMNS = (
    "patent_id",  # country, number and kind: "EP1959526B1"
    "country",
    "number",
    "kind",
    "family_id",
    "title",
    "abstract",
    "claims",  # a list
    "description",
    "codes",  # a list, CPC before IPC: "B01D53/56"
    "cpc",
    "ipc",
    "date",  # of publication, "2013-01-02"
    "year",
    "language",  # of the abstract; where there is none, of the claims or the title
)
_BIBLIOGRAPHY = ("SDOBI", "bibliographic-data", "us-bibliographic-data-grant", "us-bibliographic-data-application")
_OTHERS_PATENTS = (
    "references-cited",
    "us-references-cited",
    "us-field-of-classification-search",
    "B560",
    "priority-claims",
)
_BLOCKS = {"p", "claim-text", "heading", "li", "br", "row", "entry", "ul", "ol", "dl", "dt", "dd", "abst-problem"}
_BLOCKS |= {"abst-solution", "claim", "table", "tables", "pre", "amended-claims"}


def fields_of(root: Element, languages: Sequence[str], columns: Collection[str] | None = None) -> dict[str, Any]:
    """The row of one document: COLUMNS, None or [] for what it does not say. Texts are as written, blank space aside.

    languages: the order of preference for title, abstract, claims and description, each by itself.
    columns: of those that cost time (description, claims) only these are made.
    """
    own = _language(root)
    biblio = [child for child in root if _name(child) in _BIBLIOGRAPHY]
    named = _by_name(biblio)
    title = _preferred(_titles(named), languages, own)
    abstract = _preferred(_texts([*_children(root, "abstract"), *named.get("abstract", [])]), languages, own)
    claims = _preferred(_claims(_children(root, "claims")) if _wanted("claims", columns) else [], languages, own)
    description: tuple[str | None, Any] = (None, None)
    if _wanted("description", columns):
        description = _preferred(_texts(_children(root, "description")), languages, own)
    country, number, kind = _identity(root, named)
    date = _date(root, named)
    cpc, ipc = _codes(biblio, root)
    spoken = next((found[0] for found in (abstract, claims, title) if found[1]), None)
    return {
        "patent_id": f"{country or ''}{number}{kind or ''}" if number else None,
        "country": country,
        "number": number,
        "kind": kind,
        "family_id": root.get("family-id") or _first_text(named, "family-id"),
        "title": title[1],
        "abstract": abstract[1],
        "claims": claims[1] or [],
        "description": description[1],
        "codes": list(dict.fromkeys([*cpc, *ipc])),
        "cpc": cpc,
        "ipc": ipc,
        "date": date,
        "year": int(date[:4]) if date and date[:4].isdigit() else date,
        "language": spoken,
    }


def _wanted(column: str, columns: Collection[str] | None) -> bool:
    return columns is None or column in columns or (column == "claims" and "language" in columns)


def _name(element: Element) -> str:
    """The element's name without its namespace prefix."""
    return element.tag.rpartition(":")[2]


def _children(root: Element, name: str) -> list[Element]:
    return [child for child in root if _name(child) == name]


def _by_name(biblio: Iterable[Element]) -> dict[str, list[Element]]:
    """Every element of the bibliography by its name, without those that speak of other patents."""
    found: dict[str, list[Element]] = {}
    stack = list(biblio)[::-1]
    while stack:
        element = stack.pop()
        name = _name(element)
        if name not in _OTHERS_PATENTS:
            found.setdefault(name, []).append(element)
            stack.extend(reversed(element))
    return found


def text_of(element: Element) -> str:
    """All text inside, a line for each paragraph, other blank space made single. No recursion: depth is no risk."""
    pieces: list[str] = []
    stack: list[Element | str] = [element]
    while stack:
        item = stack.pop()
        if isinstance(item, str):
            pieces.append(item)
            continue
        block = _name(item) in _BLOCKS
        pieces.append(("\n" if block else "") + (item.text or "").replace("\n", " "))
        for child in reversed(item):
            after = (child.tail or "").replace("\n", " ")
            stack.append("\n" + after if _name(child) in _BLOCKS else after)
            stack.append(child)
    lines = (" ".join(line.split()) for line in "".join(pieces).split("\n"))
    return "\n".join(line for line in lines if line)


# ---- language

Spoken = tuple[str | None, Any]  # (language, text or texts)


def _language(element: Element) -> str | None:
    found = element.get("lang") or element.get("xml:lang")
    return found.strip().lower() or None if found else None


def _preferred(found: Sequence[Spoken], languages: Sequence[str], own: str | None) -> Spoken:
    """The first of the preferred language; else the first there is. Without a language of its own: the document's."""
    known = [(language or own, text) for language, text in found if text]
    for wanted in languages:
        for spoken in known:
            if spoken[0] == wanted.lower():
                return spoken
    return known[0] if known else (None, None)


def _texts(elements: Iterable[Element]) -> list[Spoken]:
    return [(_language(element), text_of(element)) for element in elements]


def _titles(named: dict[str, list[Element]]) -> list[Spoken]:
    found: list[Spoken] = []
    for element in named.get("B540", []):  # pairs of B541 (language) and B542 (title)
        language = None
        for child in element:
            if child.tag == "B541":
                language = text_of(child).lower()
            elif child.tag == "B542":
                found.append((language, text_of(child)))
    return found + _texts(named.get("invention-title", []))


def _claims(elements: Iterable[Element]) -> list[Spoken]:
    found: list[Spoken] = []
    for element in elements:
        claims = [text for claim in element if _name(claim) == "claim" and (text := text_of(claim))]
        found.append((_language(element), claims or [text for text in [text_of(element)] if text]))
    return found


# ---- identity, dates


def _first_text(named: dict[str, list[Element]], name: str) -> str | None:
    return next((text for element in named.get(name, []) if (text := text_of(element))), None)


def _document_ids(named: dict[str, list[Element]]) -> Iterator[dict[str, str]]:
    """country, doc-number, kind, date of each document-id of the publication; DOCDB repeats it in other formats."""
    for reference in named.get("publication-reference", []):
        for document_id in reference.iter():
            if _name(document_id) == "document-id":
                yield {_name(part): text_of(part) for part in document_id}


def _identity(root: Element, named: dict[str, list[Element]]) -> tuple[str | None, str | None, str | None]:
    if root.get("doc-number"):
        return root.get("country"), root.get("doc-number"), root.get("kind")
    for found in _document_ids(named):
        if found.get("doc-number"):
            return found.get("country"), found["doc-number"], found.get("kind")
    return _first_text(named, "B190"), _first_text(named, "B110"), _first_text(named, "B130")


def _date(root: Element, named: dict[str, list[Element]]) -> str | None:
    candidates = [root.get("date-publ"), root.get("date")]
    candidates += [found.get("date") for found in _document_ids(named)]
    candidates += [text_of(part) for name in ("B140", "B430", "B450") for part in named.get(name, [])]
    found = next((date.strip() for date in candidates if date and date.strip()), None)
    if found and re.fullmatch(r"\d{8}", found):
        try:
            return datetime.date(int(found[:4]), int(found[4:6]), int(found[6:])).isoformat()
        except ValueError:
            pass  # "20120000": as it is, for whoever checks the column
    return found


# ---- codes

_SYMBOL = re.compile(r"(?:\d\s*)?([A-HY])\s*(\d\d)\s*([A-Z])(?:\s*0*(\d{1,4})\s*/\s*(\d{2,6}))?")
_PARTS = ("section", "class", "subclass", "main-group", "subgroup")


def _codes(biblio: Iterable[Element], root: Element) -> tuple[list[str], list[str]]:
    """(CPC symbols, IPC symbols) of the document itself, in its order, each once. What is no symbol stays as it is."""
    named = _by_name([*biblio, *(child for child in root if _name(child).startswith("classifications"))])
    cpc = [_symbol(element) for element in named.get("classification-cpc", [])]
    ipc = [_symbol(e) for name in ("classification-ipcr", "B511", "B512") for e in named.get(name, [])]
    for element in named.get("classification-ipc", []):
        symbols = [child for child in element if "classification" in _name(child)]
        ipc += [_symbol(child) for child in symbols]
    for element in named.get("patent-classification", []):  # DOCDB: a scheme beside the symbol
        parts = {_name(child): child for child in element}
        scheme = parts.get("classification-scheme", element).get("scheme", "").upper()
        if "classification-symbol" in parts and scheme.startswith(("CPC", "IPC")):
            (cpc if scheme.startswith("CPC") else ipc).append(_symbol(parts["classification-symbol"]))
    return [symbol for symbol in dict.fromkeys(cpc) if symbol], [symbol for symbol in dict.fromkeys(ipc) if symbol]


def _symbol(element: Element) -> str:
    """ "A61K31/00" from structured elements or from the fixed-width text of the offices."""
    parts = {_name(child): text_of(child) for child in element}
    if "section" in parts:
        section, main_class, subclass, group, subgroup = (parts.get(name, "") for name in _PARTS)
        return f"{section}{main_class}{subclass}" + (f"{group}/{subgroup}" if group and subgroup else "")
    text = parts.get("text") or text_of(element)
    match = _SYMBOL.match(text)
    if match is None:
        return text[:50]
    head = match[1] + match[2] + match[3]
    return f"{head}{match[4]}/{match[5]}" if match[4] else head
