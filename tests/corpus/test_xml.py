"""Patent XML: what is read of each office's documents; bombs and broken documents cost themselves only."""

from __future__ import annotations

import gzip
import http.server
import threading
import tracemalloc
from pathlib import Path
from typing import Any

import pytest

from patentft.config import ConfigError, build
from patentft.corpus import xml
from patentft.corpus.read import BadRow, RawRow, columns_of, list_files, rows_of
from patentft.corpus.run import CORPUS
from patentft.corpus.stream import Reading
from patentft.location import Location
from tests.corpus.patent_xml import DOCDB, EP, ST36, USPTO, document
from tests.corpus.test_corpus_run import raw, run

PROLOG = '<?xml version="1.0" encoding="UTF-8"?>\n'
EP_DOCTYPE = '<!DOCTYPE ep-patent-document PUBLIC "-//EPO//EP PATENT DOCUMENT 1.5//EN" "ep-patent-document-v1-5.dtd">\n'


def read(path: Path, data: str | bytes, **settings: Any) -> list[RawRow | BadRow]:
    path.write_bytes(data.encode() if isinstance(data, str) else data)
    return list(rows_of(Location(path), reading=build(Reading, settings)))


def values(path: Path, data: str | bytes, **settings: Any) -> dict[str, Any]:
    (row,) = read(path, data, **settings)
    assert isinstance(row, RawRow), row
    return row.values


def numbers(rows: list[RawRow | BadRow]) -> list[str]:
    """The documents' numbers, "bad" for a broken one."""
    return [row.values["number"] if isinstance(row, RawRow) else "bad" for row in rows]


# What is read


def test_an_ep_document(tmp_path: Path) -> None:
    found = values(tmp_path / "x.xml", PROLOG + EP_DOCTYPE + EP)
    assert found == {
        "patent_id": "EP1959526B1",
        "country": "EP",
        "number": "1959526",
        "kind": "B1",
        "family_id": None,
        "title": "Filter system",
        "abstract": "A filter for NOx & dust.\nSecond paragraph.",
        "claims": ["A filter comprising:\na bag; and\na fan (12).", "The filter of claim 1."],
        "description": "FIELD\nThe invention relates.",
        "codes": ["B01D53/9418", "Y02T10/12", "B01D53/56", "F01N3/20"],
        "cpc": ["B01D53/9418", "Y02T10/12"],
        "ipc": ["B01D53/56", "F01N3/20"],
        "date": "2013-01-02",
        "year": 2013,
        "language": "en",
    }
    assert columns_of(Location(tmp_path / "x.xml")) == list(found)


@pytest.mark.parametrize(
    ("languages", "title", "claims", "language"),
    [
        (["de"], "Filteranlage", ["Ein Filter."], "en"),  # the abstract is in English only
        (["fr", "en"], "Système de filtrage", ["Un filtre."], "en"),
        (["EN"], "Filter system", None, "en"),
        (["ja"], "Filteranlage", None, "en"),  # none of it: the first there is
    ],
)
def test_the_preferred_language(
    languages: list[str], title: str, claims: list[str] | None, language: str, tmp_path: Path
) -> None:
    found = values(tmp_path / "x.xml", EP, languages=languages)
    assert found["title"] == title
    assert found["claims"] == claims or claims is None
    assert found["language"] == language


def test_a_document_in_words(tmp_path: Path) -> None:
    found = values(tmp_path / "x.xml", ST36)
    assert (found["patent_id"], found["family_id"], found["date"]) == ("WO2010123456A1", "42300000", "2010-10-28")
    assert (found["title"], found["abstract"], found["claims"]) == ("Process", "Un procédé.", ["Procédé."])
    assert (found["codes"], found["language"]) == (["C02F1/283", "C02F1/28"], "fr")


def test_prefixed_names_within_an_element_around_them(tmp_path: Path) -> None:
    """DOCDB declares its namespace on the element around the documents, which no document's text holds."""
    around = '<exch:exchange-documents xmlns:exch="http://www.epo.org/exchange" no-of-documents="2">\n'
    rows = read(tmp_path / "x.xml", PROLOG + around + DOCDB + "\n" + DOCDB + "\n</exch:exchange-documents>\n")
    assert numbers(rows) == ["2012000001"] * 2
    assert isinstance(rows[1], RawRow)
    found = rows[1].values
    assert (found["title"], found["abstract"], found["codes"]) == ("Compound", "A compound.", ["A61K31/00"])
    assert (found["patent_id"], found["family_id"], found["year"]) == ("US2012000001A1", "123", 2012)


def test_uspto_files_are_documents_one_after_another_each_with_its_prolog(tmp_path: Path) -> None:
    doctype = '<!DOCTYPE us-patent-grant SYSTEM "us-patent-grant-v45-2014-04-03.dtd" [ ]>\n'
    rows = read(tmp_path / "x.xml", (PROLOG + doctype + USPTO + "\n") * 3)
    assert numbers(rows) == ["08123456"] * 3
    assert isinstance(rows[0], RawRow)
    found = rows[0].values
    assert (found["patent_id"], found["date"], found["codes"]) == ("US08123456B2", "2012-02-28", ["H04L5/00"])


def test_only_wanted_columns_cost_time(tmp_path: Path) -> None:
    (tmp_path / "x.xml").write_text(EP)
    (row,) = rows_of(Location(tmp_path / "x.xml"), columns={"patent_id", "title"})
    assert isinstance(row, RawRow)
    assert (row.values["claims"], row.values["description"]) == ([], None)


@pytest.mark.parametrize("name", ["x.xml", "x.xml.gz"])
def test_documents_become_patents(name: str, tmp_path: Path) -> None:
    data = PROLOG + "<all>" + EP + ST36 + "<patent-document>" + DOCDB + "</all>"
    (tmp_path / name).write_bytes(gzip.compress(data.encode()) if name.endswith("gz") else data.encode())
    assert [file.name for file in list_files(str(tmp_path))] == [name]
    folder = run(CORPUS, tmp_path / "run", raw(tmp_path, 0) | {"patents": {"files": str(tmp_path / name)}})
    patents = folder.read("patents").to_pylist()
    assert [row["patent_id"] for row in patents] == ["EP1959526B1", "WO2010123456A1", "US2012000001A1"]
    assert patents[0]["codes"][0] == "B01D53/9418"
    quarantine = folder.read("quarantine").to_pylist()
    assert [(row["row"], row["reason"]) for row in quarantine] == [(2, "broken XML: no end tag; is the file cut off?")]


@pytest.mark.parametrize("encoding", ["utf-16", "iso-8859-1", "utf-8-sig", "us-ascii"])
def test_the_declared_encoding_is_read(encoding: str, tmp_path: Path) -> None:
    declared = f'<?xml version="1.0" encoding="{encoding.removesuffix("-sig")}"?>'
    title = "Groesse" if "ascii" in encoding else "Größe"
    data = "".join(document(str(n), title) for n in range(3))
    rows = read(tmp_path / "x.xml", (declared + data).encode(encoding))
    assert [row.values["title"] for row in rows if isinstance(row, RawRow)] == [title] * 3


def test_what_is_no_encoding_or_not_the_declared_one_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"x\.xml: its XML declaration names an encoding .*'utf-9'"):
        read(tmp_path / "x.xml", '<?xml version="1.0" encoding="utf-9"?>' + ST36)
    with pytest.raises(ConfigError, match=r"x\.xml: it cannot be read as utf-16"):
        read(tmp_path / "x.xml", document("1").encode("utf-16")[:-1])


def test_a_file_without_a_document_is_an_error(tmp_path: Path) -> None:
    for data in ("", "<html/>", PROLOG, "<patent-documents/>", "<!-- " + document("1") + " -->"):
        with pytest.raises(ConfigError, match=r"x\.xml holds no patent document: expected an element ep-patent"):
            read(tmp_path / "x.xml", data)


# What is hostile

LAUGHS = "".join(f'<!ENTITY lol{n} "{f"&lol{n - 1};" * 10}">' for n in range(1, 12))
BOMB = f'<!DOCTYPE patent-document [<!ENTITY lol0 "{"ha" * 1000}">{LAUGHS}]>\n'


def test_a_billion_laughs_cost_their_own_document_only(tmp_path: Path) -> None:
    evil = document("evil").replace("<p>a</p>", "<p>&lol11;</p>")
    tracemalloc.start()
    rows = read(tmp_path / "x.xml", PROLOG + BOMB + document("1") + evil + document("2"))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert numbers(rows) == ["1", "bad", "2"]
    assert isinstance(rows[1], BadRow)
    assert rows[1].reason.startswith("broken XML: undefined entity: line 1")
    assert rows[1].reason.endswith("(a DTD is never read)")
    assert peak < 32 << 20
    with pytest.raises(ConfigError, match="holds no patent document"):
        read(tmp_path / "x.xml", BOMB.replace("patent-document", "lolz") + "<lolz>&lol11;</lolz>")


def test_no_external_entity_or_dtd_is_opened_or_fetched(tmp_path: Path) -> None:
    """A server that would be asked, a file that would be read: neither is touched."""
    asked: list[str] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            self.send_response(404)
            self.end_headers()

        def log_message(self, format: str, *args: Any) -> None:
            pass

    (tmp_path / "secret.txt").write_text("secret")
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    url = f"http://127.0.0.1:{server.server_port}"
    doctype = (
        f'<!DOCTYPE patent-document SYSTEM "{url}/dtd" [<!ENTITY file SYSTEM "file://{tmp_path}/secret.txt">'
        f'<!ENTITY net SYSTEM "{url}/net"><!ENTITY % more SYSTEM "{url}/more"> %more; ]>'
    )
    stolen = [document(name, "T").replace("<p>a</p>", f"<p>&{name};</p>") for name in ("file", "net")]
    included = document("3").replace("<p>", '<xi:include href="/etc/passwd" parse="text"/><p>')
    rows = read(tmp_path / "x.xml", PROLOG + doctype + stolen[0] + stolen[1] + included + document("4"))
    server.shutdown()
    server.server_close()
    assert numbers(rows) == ["bad", "bad", "3", "4"]
    assert asked == []
    assert "secret" not in str(rows)
    assert "root:" not in str(rows)


def test_a_dtd_inside_a_document_is_refused(tmp_path: Path) -> None:
    inside = document("1").replace("<abstract>", '<!DOCTYPE x [<!ENTITY a "b">]><abstract>')
    assert numbers(read(tmp_path / "x.xml", inside + document("2"))) == ["bad", "2"]


def test_names_of_html_characters_need_no_dtd(tmp_path: Path) -> None:
    found = values(tmp_path / "x.xml", document("1").replace("<p>a", "<p>5&nbsp;&micro;m &lt;b&gt; &amp;nbsp;"))
    assert found["abstract"] == "5 µm <b> &nbsp;"


def test_depth_and_width_cost_no_stack(tmp_path: Path) -> None:
    deep = document("1", "T").replace("<p>a</p>", "<p>" * 100_000 + "x" + "</p>" * 100_000)
    wide = document("2", "T").replace("<p>a</p>", "<p/>" * 100_000)
    rows = read(tmp_path / "x.xml", deep + wide + document("3"))
    assert numbers(rows) == ["1", "2", "3"]
    assert isinstance(rows[0], RawRow)
    assert rows[0].values["abstract"] == "x"


def test_a_document_over_the_limit_is_one_bad_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(xml, "_BLOCK_BYTES", 512)
    huge = document("2", abstract="x" * 20_000)
    for data in (
        document("1") + huge + document("3"),
        document("1") + huge.replace("</patent-document>", "") + "\n" + document("3"),
    ):
        rows = read(tmp_path / "x.xml", data, max_document_bytes=5_000)
        assert numbers(rows) == ["1", "bad", "3"]
        assert isinstance(rows[1], BadRow)
        assert rows[1].reason.startswith("too large: over 5,000 bytes")
    assert numbers(read(tmp_path / "x.xml", document("1") + huge + document("3"))) == ["1", "2", "3"]


# One broken document does not spoil the others

BROKEN = {
    "no end tag": '<patent-document doc-number="9"><abstract><p>x</p></abstract>',
    "no end tag of an inner element": document("9").replace("</p>", ""),
    "an end tag too many": document("9").replace("</p>", "</p></p>"),
    "open comment": document("9").replace("<p>", "<!-- <p>"),
    "open CDATA": document("9").replace("<p>", "<![CDATA[ <p>"),
    "open attribute": document("9").replace('kind="A"', 'kind="A'),
    "no bytes of UTF-8": document("9").replace("<p>a", "<p>\udcff\udcfe"),
    "NUL": document("9").replace("<p>a", "<p>\x00"),
    "ampersand": document("9").replace("<p>a", "<p>a & b"),
    "unknown entity": document("9").replace("<p>a", "<p>&unknown;"),
    "cut in a tag": document("9")[:40],
    "a start tag alone": "<patent-document",
    "nothing in it but its start": "<patent-document >",
}


@pytest.mark.parametrize("around", [("", ""), ("<all>\n", "\n</all>"), ("<patent-documents>", "</patent-documents>")])
@pytest.mark.parametrize("kind", BROKEN)
def test_a_broken_document_costs_itself_only(kind: str, around: tuple[str, str], tmp_path: Path) -> None:
    for pieces in (["1", BROKEN[kind], "2", "3"], [BROKEN[kind], "1", "2"], ["1", BROKEN[kind], BROKEN[kind], "2"]):
        texts = [document(piece, "T<!--", "]]> --> <x", "c") if piece.isdigit() else piece for piece in pieces]
        data = (around[0] + "\n".join(texts) + around[1]).encode("utf-8", "surrogateescape")
        rows = read(tmp_path / "x.xml", data)
        wanted = [piece if piece.isdigit() else "bad" for piece in pieces]
        if kind == "a start tag alone":  # it is no tag without its end, so nothing: the next begins right behind it
            assert [n for n in numbers(rows) if n != "bad"] == [n for n in wanted if n != "bad"]
        else:
            assert numbers(rows) == wanted
        assert [row.number for row in rows] == list(range(len(rows)))


def test_many_documents_with_open_comments_take_linear_time(tmp_path: Path) -> None:
    """Each could swallow all that follows: 2,000 of them would read the file 2,000 times over."""
    data = "".join(BROKEN["open comment"] + document(str(n)) for n in range(1000))
    rows = read(tmp_path / "x.xml", data)
    assert numbers(rows) == [name for n in range(1000) for name in ("bad", str(n))]
    hostile = "<!--" * 100_000 + "<!DOCTYPE" * 100_000 + "<!DOCTYPE x [" * 100_000
    assert numbers(read(tmp_path / "x.xml", hostile + document("1"))) == ["1"]


def test_what_looks_like_a_document_in_a_comment_or_cdata_or_dtd_is_none(tmp_path: Path) -> None:
    other = document("other")
    quoted = document("2").replace("<p>a</p>", f"<p><![CDATA[{other}]]></p><!-- {other} <patent-document > -->")
    dtd = f"<!DOCTYPE x [<!ENTITY doc '{other}'>]>"
    rows = read(
        tmp_path / "x.xml", PROLOG + dtd + f"<!-- {other} -->{document('1')}<!--{other}-->{quoted}{document('3')}"
    )
    assert numbers(rows) == ["1", "2", "3"]


@pytest.mark.parametrize("block", [1, 7, 64, 300])
def test_documents_across_blocks(block: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(xml, "_BLOCK_BYTES", block)
    data = PROLOG + "<all>" + EP + f"<!-- {document('0')} -->" + ST36 + BROKEN["open CDATA"] + DOCDB + "</all>"
    rows = read(tmp_path / "x.xml", data)
    assert numbers(rows) == ["1959526", "2010123456", "bad", "2012000001"]


def test_a_cut_file_loses_only_its_last_document(tmp_path: Path) -> None:
    data = (document("1") + document("2") + document("3", abstract="x" * 300)).encode()
    first = len(document("1") + document("2"))
    for length in range(first + 17, len(data), 5):
        assert numbers(read(tmp_path / "x.xml", data[:length])) == ["1", "2", "bad"]


def test_memory_holds_one_document(tmp_path: Path) -> None:
    text = document("1", abstract="x" * 100_000)
    (tmp_path / "x.xml").write_text(text * 150)  # 15 MB
    tracemalloc.start()
    count = sum(1 for _ in rows_of(Location(tmp_path / "x.xml")))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert count == 150
    assert peak < 8 << 20
