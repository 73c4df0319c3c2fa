"""Small patent documents as the offices write them, for the tests of XML."""

# ruff: noqa: E501 (as the offices write them)

from __future__ import annotations

from xml.sax.saxutils import escape

EP = """<ep-patent-document id="EP08103465B1" file="EP08103465NWB1.xml" lang="en" country="EP" doc-number="1959526" \
kind="B1" date-publ="20130102" status="n" dtd-version="ep-patent-document-v1-4">
<SDOBI lang="en"><B000><eptags><B001EP>ATBECHDE</B001EP></eptags></B000>
<B100><B110>1959526</B110><B120><B121>EUROPEAN PATENT SPECIFICATION</B121></B120><B130>B1</B130>
<B140><date>20130102</date></B140><B190>EP</B190></B100>
<B400><B430><date>20080820</date><bnum>200834</bnum></B430></B400>
<B500><B510EP><classification-ipcr sequence="1"><text>B01D  53/56        20060101AFI20080404BHEP        </text>\
</classification-ipcr><classification-ipcr sequence="2"><text>F01N   3/20        20060101ALI20080404BHEP        </text>\
</classification-ipcr></B510EP>
<B520EP><classifications-cpc><classification-cpc sequence="1"><text>B01D  53/9418      20130101 FI20130101BHEP        \
</text></classification-cpc><classification-cpc sequence="2"><text>Y02T  10/12        20130101 LA20130101BGEP        \
</text></classification-cpc></classifications-cpc></B520EP>
<B540><B541>de</B541><B542>Filteranlage</B542><B541>en</B541><B542>Filter system</B542><B541>fr</B541>\
<B542>Système de filtrage</B542></B540>
<B560><B561><text>EP-A- 1 000 000</text><classification-ipcr><text>A01B   1/00</text></classification-ipcr></B561></B560>
</B500></SDOBI>
<abstract id="abst" lang="en"><p id="pa01" num="0001">A filter for NO<sub>x</sub> &amp; dust.
  <img id="iaf01" file="imgaf001.tif"/></p><p>Second   paragraph.</p></abstract>
<description id="desc" lang="en"><heading id="h0001">FIELD</heading><p id="p0001" num="0001">The invention relates.</p>
</description>
<claims id="claims01" lang="en"><claim id="c-en-01-0001" num="0001"><claim-text>A filter comprising:\
<claim-text>a bag; and</claim-text><claim-text>a fan (12).</claim-text></claim-text></claim>
<claim id="c-en-01-0002" num="0002"><claim-text>The filter of <claim-ref idref="c-en-01-0001">claim 1</claim-ref>.\
</claim-text></claim></claims>
<claims id="claims02" lang="de"><claim id="c-de-01-0001" num="0001"><claim-text>Ein Filter.</claim-text></claim></claims>
<claims id="claims03" lang="fr"><claim id="c-fr-01-0001" num="0001"><claim-text>Un filtre.</claim-text></claim></claims>
</ep-patent-document>"""

ST36 = """<patent-document ucid="WO-2010123456-A1" country="WO" doc-number="2010123456" kind="A1" lang="FR" \
family-id="42300000" date="20101028">
<bibliographic-data><technical-data><classifications-ipcr><classification-ipcr>C02F   1/28        20060101AFI20101028BHWO\
</classification-ipcr></classifications-ipcr>
<classifications-cpc><classification-cpc><section>C</section><class>02</class><subclass>F</subclass>\
<main-group>1</main-group><subgroup>283</subgroup></classification-cpc></classifications-cpc>
<invention-title lang="FR">Procédé</invention-title><invention-title lang="EN">Process</invention-title></technical-data>
<references-cited><citation><patcit><classification-cpc><section>Z</section></classification-cpc></patcit></citation>
</references-cited></bibliographic-data>
<abstract lang="FR"><p>Un procédé.</p></abstract>
<claims lang="FR"><claim num="1"><claim-text>Procédé.</claim-text></claim></claims></patent-document>"""

DOCDB = """<exch:exchange-document country="US" doc-number="2012000001" kind="A1" family-id="123" date-publ="20120105">
<exch:bibliographic-data><exch:publication-reference data-format="docdb"><document-id><country>US</country>\
<doc-number>2012000001</doc-number><kind>A1</kind><date>20120105</date></document-id></exch:publication-reference>
<exch:patent-classifications><patent-classification sequence="1"><classification-scheme office="EP" scheme="CPCI"/>\
<classification-symbol>A61K  31/00</classification-symbol></patent-classification><patent-classification sequence="2">\
<classification-scheme office="US" scheme="UC"/><classification-symbol>123/456</classification-symbol>\
</patent-classification></exch:patent-classifications>
<exch:invention-title lang="en" data-format="docdba">Compound</exch:invention-title></exch:bibliographic-data>
<exch:abstract lang="en" data-format="docdba"><exch:p>A compound.</exch:p></exch:abstract></exch:exchange-document>"""

USPTO = """<us-patent-grant lang="EN" file="US08123456-20120228.XML" country="US" date-publ="20120228">
<us-bibliographic-data-grant><publication-reference><document-id><country>US</country><doc-number>08123456</doc-number>\
<kind>B2</kind><date>20120228</date></document-id></publication-reference>
<classifications-ipcr><classification-ipcr><section>H</section><class>04</class><subclass>L</subclass>\
<main-group>5</main-group><subgroup>00</subgroup></classification-ipcr></classifications-ipcr>
<invention-title id="d2e43">Radio</invention-title>
<us-references-cited><us-citation><patcit num="00001"><document-id><doc-number>1</doc-number></document-id></patcit>\
</us-citation></us-references-cited></us-bibliographic-data-grant>
<abstract id="abstract"><p id="p-0001" num="0000">A radio.</p></abstract>
<claims id="claims"><claim id="CLM-00001" num="00001"><claim-text>1. A radio.</claim-text></claim></claims>
</us-patent-grant>"""


def document(
    number: str, title: str = "t", abstract: str = "a", claim: str = "c", root: str = "patent-document"
) -> str:
    """A small document of any of the kinds that say it in words."""
    return (
        f'<{root} country="XX" doc-number="{number}" kind="A" lang="en"><bibliographic-data>'
        f"<invention-title>{escape(title)}</invention-title></bibliographic-data><abstract><p>{escape(abstract)}</p>"
        f"</abstract><claims><claim><claim-text>{escape(claim)}</claim-text></claim></claims></{root}>"
    )
