"""Markdown, LaTeX, terminal, CSV and the files of a report."""

from __future__ import annotations

import io
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
from rich.console import Console

from tests.errors import refuses
from vitq import report
from vitq.config import RunConfig
from vitq.errors import StoreError, VitqError
from vitq.report import latex, wording
from vitq.report.comparison import pairwise, verdict
from vitq.report.markdown import grid
from vitq.store import Store


def terminal(store: Store, width: int) -> str:
    console = Console(width=width, file=io.StringIO(), force_terminal=False)
    console.print(report.rich_table(report.table(store, "demo")))
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_markdown_of_the_demo(store: Store) -> None:
    text = report.render(report.table(store, "demo"))
    assert "13 runs: 11 done, 1 planned, 1 failed." in text
    assert re.search(r"\| full precision +\| +98\.00 \| +98\.00 \| +98\.00 \| +98\.00 \|", text)
    assert re.search(r"\| percentile +\| +97\.50 \(−0\.50\) \| +pending \| +90\.50 \(−7\.50\) \| +failed \|", text)
    assert "**95.00** (−3.00)" in text
    assert "**90.50**" not in text
    assert "n = 400 evaluation images: the standard error of one accuracy is ±0.70 points" in text
    assert "RuntimeError: out of memory \\<script>" in text
    tables = [line for line in text.splitlines() if line.startswith("|")]
    assert all(len(re.findall(r"(?<!\\)\|", line)) >= 5 for line in tables)


def test_markdown_of_seeds_says_what_is_missing(seeded: Store) -> None:
    text = report.render(report.table(seeded, "demo"))
    assert "82.25 ± 0.75 (−15.75)" in text
    assert "Mean ± sample standard deviation over up to 3 seeds" in text
    assert "95.88 ± 0.53 (−2.12, 2/3 seeds)" in text


def test_grid_escapes_what_would_break_the_table() -> None:
    assert grid(["a|b", "c"], [["1\n2", "\\"]]).splitlines() == [
        "| a\\|b | c   |",
        "| ---- | --- |",
        "| 1 2  | \\\\  |",
    ]


def test_latex_balances_and_escapes(store: Store) -> None:
    text = latex.render(report.table(store, "demo"))
    assert text.count(r"\begin{") == text.count(r"\end{") == 2
    assert text.count("{") == text.count("}")
    assert r"RepQ-ViT & \textbf{97.75} & " in text
    assert r"Full precision & 98.00 & 98.00 & 98.00 & 98.00 \\" in text
    body = [line for line in text.splitlines() if line.endswith(r"\\")]
    assert {line.count(" & ") for line in body} == {4}
    assert all(ord(character) < 128 for character in text)
    assert latex.escape(r"a_b%{x}\~^&#$<") == (
        r"a\_b\%\{x\}\textbackslash{}\textasciitilde{}\textasciicircum{}\&\#\$\textless{}"
    )


def test_latex_knows_every_sign_of_a_label(
    make_config: Callable[..., RunConfig], make_sweep: Callable[..., Store]
) -> None:
    budget = make_config(bits=4, method__steps={"a": {"do": "allocate", "size_mb": 0.5}})
    turned = [{"*.weight": 8, "*.input": 6}, {"*.input": 6, "*.weight": 8}]
    store = make_sweep((budget, 5), *((make_config("mse", bits__sites=sites), 9) for sites in turned))
    text = latex.render(report.table(store, "demo"))
    assert r"W4A4 ($\leq$ 0.5 MB)" in text
    assert r"sites.order=*.weight \textgreater{} *.input" in text
    assert all(ord(character) < 128 for character in text)


@pytest.mark.parametrize("width", [80, 120])
def test_the_terminal_cuts_no_number(seeded: Store, width: int) -> None:
    text = terminal(seeded, width)
    assert "…" not in text
    for number in ("82.25 ± 0.75", "(−15.75)", "22.25 ± 0.75", "0.079–0.082", "1.77"):
        assert number in text, number
    assert max(map(len, text.splitlines())) <= width


@pytest.mark.parametrize(("width", "tables"), [(40, 8), (80, 2), (200, 1)])
def test_bit_widths_that_do_not_fit_stand_in_a_table_below(
    make_config: Callable[..., RunConfig], make_sweep: Callable[..., Store], width: int, tables: int
) -> None:
    kinds: list[dict[str, int]] = [{}, {"probs": 8}]
    runs = [(make_config("mse", bits, bits__kinds=kind), 40 - 4 * bits) for bits in (8, 6, 4, 3) for kind in kinds]
    text = terminal(make_sweep(*runs), width)
    assert max(map(len, text.splitlines())) <= width
    heads = [line.split()[1:-1] for line in text.splitlines() if line.split()[:1] == ["method"]]
    assert len(heads) == tables
    labels = [f"W{b}A{b}{star}" for b in (8, 6, 4, 3) for star in ("", "*")]
    assert [label for head in heads for label in head] == labels
    words = text.split()
    assert [words.count(f"{98 - (40 - 4 * bits) / 4:.2f}") for bits in (8, 6, 4, 3)] == [2] * 4


def test_the_terminal_names_failures(store: Store) -> None:
    text = terminal(store, 200)
    assert (
        "failed  vit_digits · percentile · W3A3 · 32 calibration images · seed 0: RuntimeError: out of memory <script>"
        in text
    )


def test_calibration_sizes_have_a_column_and_holes_stay_empty(
    make_config: Callable[..., RunConfig], make_sweep: Callable[..., Store]
) -> None:
    store = make_sweep((make_config("a", calib=32), 5), (make_config("a", bits=4, calib=64), 9))
    df = report.table(store, "demo")
    first, second = [line for line in report.render(df).splitlines() if line.startswith("| a ")]
    assert [cell.strip() for cell in first.split("|")[1:-1]] == ["a", "32", "**96.75** (−1.25)", "", "2.05"]
    assert [cell.strip() for cell in second.split("|")[1:-1]] == ["a", "64", "", "**95.75** (−2.25)", "1.65"]
    assert r"a & 32 & \textbf{96.75} &  \\" in latex.render(df)
    assert re.search(r"a +32 +96\.75 \(−1\.25\) +2\.05", terminal(store, 100))
    html = report.build(store, "demo", ["html"])["html"].read_text()
    assert '<td class="n">64</td>' in html
    assert "a, 64 calibration images" in html


def test_a_pair_that_cannot_be_compared_says_why(store: Store) -> None:
    df = report.table(store, "demo")
    first = df.loc[df["method"] == "repq_vit", "signature"].iloc[0]
    store.run(first).predictions_path.unlink()
    text = report.build(store, "demo", ["md"])["md"].read_text()
    assert re.search(r"repq_vit − minmax +\| W8A8 \| +32 \| +0 \| no predictions\.npz in ", text)


def test_csv_holds_every_run(store: Store) -> None:
    files = report.build(store, "demo", ["csv"])
    back = pd.read_csv(files["csv"])
    assert list(back["signature"]) == store.read_sweep("demo").signatures
    assert back["top1"].tolist() == pytest.approx(report.table(store, "demo")["top1"].tolist(), nan_ok=True)


def test_every_format_compares_all_pairs(store: Store) -> None:
    formats = ["csv", "md", "latex-pairs", "parquet"]
    files = report.build(store, "demo", formats)
    expected = pairwise(store, report.table(store, "demo")).drop(columns="outcomes")
    assert len(expected) > 3
    folder = files["csv"].parent
    pd.testing.assert_frame_equal(pd.read_parquet(folder / "pairs.parquet"), expected, check_dtype=False)
    back = pd.read_csv(folder / "pairs.csv")
    assert back["p_holm"].tolist() == pytest.approx(expected["p_holm"].tolist(), nan_ok=True)
    text = files["md"].read_text()
    for row in expected.to_dict("records"):
        difference = wording.signed(row["difference"])
        assert re.search(rf"\| {row['bits']} +\| {row['a']} +\| {row['b']} +\| {verdict(row)} .*{difference} ", text)
    tex = files["latex-pairs"].read_text()
    assert tex.count(r"\begin{") == tex.count(r"\end{") == 1
    assert len(re.findall(r"^vit\S* & W\dA\d & .* \\\\$", tex, flags=re.MULTILINE)) == len(expected)


def test_files_lie_with_the_sweep_and_repeat_byte_by_byte(store: Store) -> None:
    files = report.build(store, "demo")
    folder = store.root / "sweeps" / "demo"
    names = {
        "html": "report.html",
        "csv": "report.csv",
        "md": "report.md",
        "latex": "report.tex",
        "parquet": "report.parquet",
    }
    assert files == {name: folder / file for name, file in names.items()}
    before = {name: path.read_bytes() for name, path in files.items()}
    report.build(store, "demo")
    assert {name: path.read_bytes() for name, path in files.items()} == before


def test_another_folder(store: Store, tmp_path: Path) -> None:
    out = tmp_path / "a folder" / "that is not there"
    assert report.build(store, "demo", ["md"], out) == {"md": out / "report.md"}
    assert (out / "report.md").read_text().startswith("# demo\n\nRound-to-nearest against RepQ-ViT\n\n13 runs")
    assert "### Paired comparison" in (out / "report.md").read_text()


def section(text: str, heading: str) -> list[list[str]]:
    """Rows of the table below a heading, head and rule left out."""
    lines = text.partition(f"### {heading}\n")[2].partition("\n#")[0].splitlines()
    rows = [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines if line.startswith("|")]
    return rows[2:]


def test_results_page_says_where_its_figures_come_from(seeded: Store, tmp_path: Path) -> None:
    files = report.build(seeded, "demo", ["results"], tmp_path)
    assert files == {"results": tmp_path / "demo.md"}
    text = files["results"].read_text()
    facts = dict(section(text, "Where these figures come from"))
    assert facts["command"] == "vitq sweep demo"
    assert facts["executed"] == "2026-11-20T12:00:00+00:00 to 2026-11-20T12:00:04+00:00"
    assert facts["versions"] == "timm 1.0.31, torch 2.15.0"
    assert facts["code"] == "commit 0123abc, vitq 0.1.0"
    assert facts["host"] == "cores 2", "what the machine is, not what it is called"
    assert "82.25 ± 0.75" in text
    assert "### Paired comparison" in text


def test_results_page_lists_the_signature_of_every_finished_run(store: Store, tmp_path: Path) -> None:
    text = report.build(store, "demo", ["results"], tmp_path)["results"].read_text()
    df = report.table(store, "demo")
    rows = section(text, "Signatures")
    assert {row[-1].strip("` ") for row in rows} == {*df.loc[df["state"] == "done", "signature"]}
    by_signature = df.set_index("signature")
    for model, method, bits, calib, seed, top1, signature in rows:
        run = by_signature.loc[signature.strip("` ")]
        assert [model, method, bits] == [run["model"], run["method"], run["bits"]]
        assert float(top1) == pytest.approx(run["top1"], abs=0.005)
        assert [calib, seed] == (["", ""] if bits == "FP" else [str(run["calib"]), str(run["seed"])])
    assert [row[2] for row in rows if row[1] == "minmax"] == ["W8A8", "W6A6", "W4A4", "W3A3"]


def test_errors(store: Store) -> None:
    with refuses(VitqError, key="--format", value="htm", valid=["html"]):
        report.build(store, "demo", ["csv", "htm"])
    assert not (store.root / "sweeps" / "demo").exists(), "nothing is written when one format is unknown"
    with refuses(StoreError, key="sweep", value="other"):
        report.build(store, "other")


def test_no_baseline_no_comparison(make_config: Callable[..., RunConfig], make_sweep: Callable[..., Store]) -> None:
    files = report.build(make_sweep((make_config(), 1)), "demo", ["md", "html"])
    assert "Paired" not in files["md"].read_text()
    assert "sweep.baseline" in files["html"].read_text()


@pytest.mark.parametrize(
    ("value", "text"), [(0.5, "+0.50"), (-0.5, "−0.50"), (-0.001, "0.00"), (0.0, "0.00"), (float("nan"), "–")]
)
def test_signed(value: float, text: str) -> None:
    assert wording.signed(value) == text


@pytest.mark.parametrize(
    ("span", "text"),
    [(None, "–"), ((0.21, 0.21), "0.210"), ((0.0788, 0.0818), "0.079–0.082"), ((5.71, 22.9), "5.7–22.9"),
     ((344.1, 346.2), "344–346"), ((0.0012, 0.0012), "0.00120"), ((0.0, 0.0), "0.00")],
)  # fmt: skip
def test_size(span: tuple[float, float] | None, text: str) -> None:
    assert wording.size(span) == text


def test_importing_the_package_stays_light() -> None:
    """`vitq --help` may reach it: no pandas, plotly, scipy or torch on import."""
    heavy = "pandas", "plotly", "scipy", "torch"
    code = f"import sys, vitq.report, vitq.store; print([m for m in {heavy} if m in sys.modules])"
    root = Path(__file__).parents[2]
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=root, check=True)
    assert done.stdout.strip() == "[]"
