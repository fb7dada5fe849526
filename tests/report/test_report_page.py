"""The HTML page: one file, no network, nothing in the data can become markup."""

from __future__ import annotations

import base64
import gzip
import html
import json
import re
from collections.abc import Callable
from html.parser import HTMLParser
from math import nan

import pytest

from vitq import report
from vitq.config import RunConfig
from vitq.plots.palette import PALETTE, style
from vitq.report import figures as drawing
from vitq.report.accuracy_table import Matrix, MatrixCell, Row
from vitq.report.answer import which_method
from vitq.report.comparison import pairwise
from vitq.report.figures import _log_ticks
from vitq.report.page_data import _ticks
from vitq.store import Store

VOID = {"meta", "link", "br", "img", "input", "hr"}


class Page(HTMLParser):
    """Collects scripts, table cells and references; fails on tags that do not nest."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.scripts: list[tuple[dict[str, str | None], str]] = []
        self.references: list[str] = []
        self.tables: list[list[list[str]]] = []
        self.figures: list[str] = []
        self.feed(text)
        self.close()
        self.tables = [[[" ".join(cell.split()) for cell in row] for row in table] for table in self.tables]
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in VOID:
            self.open.append(tag)
        found = dict(attrs)
        # What is fetched with the page; where a link leads is fetched when somebody follows it.
        named = [str(found[name]) for name in ("src", "href", "action") if name in found and tag != "a"]
        self.references += [name for name in named if not name.startswith("data:image/png;base64,")]
        if tag == "script":
            self.scripts.append((found, ""))
        if tag == "table":
            self.tables.append([])
        if tag == "tr":
            self.tables[-1].append([])
        if tag in ("td", "th"):
            self.tables[-1][-1].append("")
        if tag == "div" and found.get("class") == "plot":
            self.figures.append(str(found["id"]))

    def handle_endtag(self, tag: str) -> None:
        assert self.open[-1:] == [tag], f"</{tag}> does not close {self.open[-1:]}"
        self.open.pop()

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] == "script":
            self.scripts[-1] = (self.scripts[-1][0], self.scripts[-1][1] + data)
        elif "table" in self.open and self.tables[-1] and self.tables[-1][-1]:
            self.tables[-1][-1][-1] += data


def page(store: Store) -> tuple[str, Page]:
    text = report.build(store, "demo", ["html"])["html"].read_text(encoding="utf-8")
    return text, Page(text)


def test_self_contained_and_small(store: Store) -> None:
    text, parsed = page(store)
    assert parsed.references == []
    assert "default-src 'none'" in text
    assert len(text.encode()) < 2.5e6
    (packed,) = [script for attributes, script in parsed.scripts if attributes.get("id") == "plotly"]
    assert b"plotly.js v" in gzip.decompress(base64.b64decode(packed))
    style_sheet = text[text.index("<style>") : text.index("</style>")]
    assert "url(" not in style_sheet
    assert "@import" not in style_sheet
    for needed in ("prefers-color-scheme: dark", "@media print"):
        assert needed in style_sheet


def test_the_matrix_says_what_the_runs_say(store: Store) -> None:
    _, parsed = page(store)
    head, full, *rows, sizes = parsed.tables[0]
    assert head == ["method", "W8A8", "W6A6", "W4A4", "W3A3", "s"]
    assert full == ["full precision", *["98.00"] * 4, ""]  # beside every column: none of them is always in view
    assert rows[1] == ["percentile", "97.50 (−0.50)", "pending", "90.50 (−7.50)", "failed", "1.85"]
    assert sizes == ["size, MB (full precision 0.840)", "0.210–0.213", "0.158–0.161", "0.105–0.108", "0.079–0.082", ""]


def test_the_page_begins_with_its_contents_and_the_answer(store: Store) -> None:
    text, _ = page(store)
    links = re.findall(r'<a href="#(part-\d+)">(.*?)</a>', text)
    heads = re.findall(r'<section id="(part-\d+)">\n<h2>(.*?)</h2>', text)
    assert links == heads
    assert [title for _, title in heads][:2] == ["vit_digits on digits", "Is A better than B here?"]
    (listed,) = re.findall(r'<ul class="answer">(.*?)</ul>', text, re.DOTALL)
    answers = re.findall(r"<li>(.*?)</li>", listed)
    df = report.table(store, "demo")
    assert [html.unescape(line) for line in answers] == which_method(df, pairwise(store, df))
    assert 'class="answer"' not in text[text.index("<main>") :], "the question is answered once"


def test_images_are_never_just_images(seeded: Store) -> None:
    _, parsed = page(seeded)
    assert [cell for table in parsed.tables for cell in (table[0] if table else []) if cell == "images"] == []


def test_blocks_are_the_ticks_of_sites() -> None:
    names = [
        "patch_embed.proj.weight",
        "blocks.0.attn.qkv.weight",
        "blocks.0.mlp.fc1.input",
        "blocks.1.attn.proj.input",
    ]
    assert _ticks([*names, "head.weight"]) == [
        ("patch_embed.proj.weight", "patch_embed"), ("blocks.0.attn.qkv.weight", "blocks.0"),
        ("blocks.1.attn.proj.input", "blocks.1"), ("head.weight", "head"),
    ]  # fmt: skip
    assert _ticks(["layers.0.blocks.1.attn.x", "layers.1.downsample.y"]) == [
        ("layers.0.blocks.1.attn.x", "layers.0.blocks.1"),
        ("layers.1.downsample.y", "layers.1"),
    ]


def test_every_run_is_in_the_table_of_runs(store: Store) -> None:
    _, parsed = page(store)
    runs = parsed.tables[-1]
    assert [row[-2] for row in runs[1:]] == store.read_sweep("demo").signatures
    assert len({len(row) for row in runs}) == 1


def test_figures_hold_the_numbers(seeded: Store) -> None:
    _, parsed = page(seeded)
    figures = {str(a["data-for"]): json.loads(text) for a, text in parsed.scripts if "data-for" in a}
    assert list(figures) == parsed.figures == ["figure-0-0", "figure-0-1"]
    dots = {trace["name"]: trace for trace in figures["figure-0-0"]["data"]}
    assert dots["minmax"]["x"] == ["W8A8", "W6A6", "W4A4", "W3A3"]
    assert dots["minmax"]["y"] == pytest.approx([96.75, 95.25, 82.25, 22.25])
    assert dots["minmax"]["error_y"]["array"] == pytest.approx([0.75] * 4)
    assert dots["minmax"]["error_y"]["visible"]
    assert "full precision, 98.00 %" in dots
    assert figures["figure-0-0"]["layout"]["shapes"][0]["y0"] == 98.0
    scatter = {trace["name"]: trace for trace in figures["figure-0-1"]["data"]}
    assert scatter["minmax"]["x"] == sorted(scatter["minmax"]["x"])
    assert scatter["full precision"]["x"] == [0.84]
    for figure in figures.values():
        assert "%" in figure["layout"]["yaxis"]["title"]["text"]
        assert figure["layout"]["xaxis"]["title"]["text"]


def test_axes_of_accuracy_show_differences_that_matter() -> None:
    def axis(*top1: float) -> tuple[float, float]:
        cells: list[MatrixCell | None] = [MatrixCell(value, nan, 0.0, 1, 1, 0, 1.0, 1.0) for value in top1]
        bits = [f"W{i}A{i}" for i in range(len(cells))]
        matrix = Matrix("model", "data", bits, [Row("mse", 32, cells, 1.0)], [None] * len(cells), 98.5, 4.0, 100)
        dots, scatter = drawing.dots(matrix), drawing.scatter(matrix)
        assert dots.layout.yaxis.range == scatter.layout.yaxis.range
        return tuple(dots.layout.yaxis.range)

    assert axis(97.0, 20.0) == (0, 104)
    low, high = axis(97.0, 90.5)
    assert 89 < low < 90.5
    assert 98.5 < high < 100


def test_nothing_in_the_data_becomes_markup(
    make_config: Callable[..., RunConfig], make_sweep: Callable[..., Store]
) -> None:
    evil = "</script><img src=x onerror=alert(1)>{{ 7*7 }}"
    store = make_sweep(
        (make_config(evil, model__name=evil, data__name=evil), 3), (make_config("b", model__name=evil), 1)
    )
    text, parsed = page(store)
    assert parsed.references == []
    assert "<img" not in text
    assert "{{ 7*7 }}" in text
    assert [json.loads(script) for attrs, script in parsed.scripts if "data-for" in attrs]


def test_failures_provenance_and_comparisons_are_there(store: Store) -> None:
    text, parsed = page(store)
    assert "RuntimeError: out of memory &lt;script&gt;alert(1)&lt;/script&gt;" in text
    assert "vitq sweep demo" in text
    assert "timm 1.0.31, torch 2.15.0" in text
    assert "commit 0123abc" in text
    assert "dirty None" not in text
    assert "ab" * 32 in text
    compared = next(table for table in parsed.tables if table and table[0][-1] == "p (Holm)")
    assert len(compared) == 1 + 6
    assert compared[-1][:4] == ["vit_digits", "repq_vit", "minmax", "W3A3"]
    assert compared[-1][6] == "+42.50"


def test_seeds_have_a_table_of_spreads(seeded: Store) -> None:
    _, parsed = page(seeded)
    spreads = next(table for table in parsed.tables if table and "std, points" in table[0])
    assert len(spreads) == 1 + 12
    assert ["vit_digits", "digits", "percentile", "W6A6", "32", "2 of 3", "95.88", "0.53", "2.12", "0.99"] in spreads


def test_a_sweep_where_nothing_is_done_yet(store: Store) -> None:
    for signature in store.signatures():
        store.run(signature).result_path.unlink(missing_ok=True)
    text, parsed = page(store)
    assert parsed.figures == []
    assert "No two finished runs to compare yet" in text
    assert not re.search(r"\bnan\b", re.sub(r"<script.*?</script>", "", text, flags=re.S), re.I)


def test_no_two_rows_look_alike() -> None:
    looks = [style(index) for index in range(48)]
    assert len(set(looks)) == 48
    assert len(PALETTE) == len(set(PALETTE))


def test_ticks_of_the_size_axis() -> None:
    assert _log_ticks([0.08, 0.84]) == pytest.approx([0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5])
    assert _log_ticks([]) == []
