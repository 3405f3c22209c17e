"""The paper says the same in HTML and in PDF, and nothing in it points nowhere."""

import html
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import matplotlib.figure
import pypdf
import pytest
import typst
from playwright.sync_api import sync_playwright

from stages.base.errors import RenderError
from stages.base.settings import load
from stages.report import pandoc, quarto
from stages.report.check import check_source
from stages.report.render import main, render
from stages.report.settings import Renderer
from stages.report.source import read_source

REPORTS = Path(__file__).parents[2] / "reports"
PARAMS = REPORTS.parent / "params.yaml"
PROJECT = ("_quarto.yml", "paper.css", "paper.lua", "style.typ", "references.bib")
CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
NOTICE = "Simulated demo data: no number here is a finding."

PAPER = """\
---
title: "On mice and heads"
author:
  - name: Ada Example
    affiliation: Institute of Examples
date: 2026-01-31
abstract: |
  The change was +0.145, as @fig-a shows.
notice: "{notice}"
---

# Introduction {#sec-intro}

Gini [@gini1912] and Hill numbers [@hill1973; see @jost2006, p. 3] meet in @eq-gini. Text with a
footnote[^note] and "+0.145", (1.000/7),
**mice** and $x = +0.145$.

$$
G = \\frac{n + 1 - 2 \\sum_i c_i}{n}
$$ {#eq-gini}

An equation without a number comes between: $$ a = b $$

$$ N = \\exp\\left(-\\sum_i p_i \\ln p_i\\right) $$ {#eq-hill}

# Methods {#sec-methods}

## Data {#sec-data}

@Fig-a at the start of a sentence; [@fig-a; @fig-b] in brackets, [see @tbl-a], [-@tbl-b] without
its word, [@eq-hill]. See @sec-results and @sec-deep.

### The mice in a heading {#sec-deep}

![A caption with +0.145 and *stress* [@hill1973].](figures/fig_a.png){#fig-a
fig-alt="Points that rise, +0.145" width=60%}

## Results {#sec-results}

Words of the first include.

{{< include _provenance/table.md >}}

::: {#fig-b}
![](figures/fig_b.svg){fig-alt="A square"}

The caption of a block.
:::

# References {.unnumbered}

::: {#refs}
:::

[^note]: Said by @gini1912 long ago.
""".replace("{notice}", NOTICE)

TABLE = """\
| tissue | change |
|--------|-------:|
| marrow | +0.145 |
| kidney | -0.02 |

: Changes by tissue, median +0.145 {#tbl-a}

::: {#tbl-b}

| a | b |
|---|--:|
| 1 | 2 |

A table whose caption stands apart.
:::
"""

SVG = """\
<svg xmlns="http://www.w3.org/2000/svg" width="60" height="60">
<rect width="60" height="60" fill="teal"/>
<text x="5" y="30" style="font-size: 7px; font-family: 'DejaVu Sans'">Kidney</text></svg>
"""


def _write_project(folder: Path) -> Path:
    for name in PROJECT:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(REPORTS / name, folder / name)
    texts = {
        "paper.qmd": PAPER,
        "_provenance/table.md": TABLE,
        "figures/fig_b.svg": SVG,
    }
    for name, text in texts.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text, encoding="utf-8")
    figure = matplotlib.figure.Figure(figsize=(6, 3))
    figure.subplots().plot([0, 1, 2], [0, 1, 4], "o")
    figure.savefig(folder / "figures" / "fig_a.png", dpi=100)
    return folder


@pytest.fixture
def project(tmp_path: Path) -> Path:
    return _write_project(tmp_path / "reports")


@pytest.fixture(scope="module", params=list(Renderer), ids=lambda one: one.value)
def renderer(request: pytest.FixtureRequest) -> Renderer:
    """Return each renderer in turn, Quarto where it is installed."""
    if request.param is Renderer.QUARTO and quarto.find_quarto() is None:
        pytest.skip("quarto is not installed on this machine")
    return request.param


@pytest.fixture(scope="module")
def rendered(renderer: Renderer, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = _write_project(tmp_path_factory.mktemp("rendered") / "reports")
    return render(folder, "paper.qmd", out_dir=folder / "_output", renderer=renderer)


def _edit(path: Path, old: str, new: str) -> None:
    text = path.read_text(encoding="utf-8")
    assert old in text
    path.write_text(text.replace(old, new, 1), encoding="utf-8")


def _html_text(path: Path) -> str:
    """Return the visible words, with MathML left out."""
    page = path.read_text(encoding="utf-8").split("<body", 1)[1].partition(">")[2]
    page = re.sub(r"<(math|script|style|nav)\b.*?</\1>", " ", page, flags=re.DOTALL)
    # Only block tags part words: <em>a</em>, is one word with its comma.
    page = re.sub(r"</?(a|em|strong|sup|span|i|b)\b[^>]*>", "", page)
    return _squeeze(html.unescape(re.sub(r"<[^>]+>", " ", page)))


def _pdf_text(path: Path) -> str:
    return _squeeze(" ".join(page.extract_text() for page in pypdf.PdfReader(path).pages))


def _squeeze(text: str) -> str:
    for ligature, letters in {"ﬁ": "fi", "ﬂ": "fl", "ﬀ": "ff", "ﬃ": "ffi"}.items():
        text = text.replace(ligature, letters)
    return " ".join(text.replace("\u2010", "-").split())


NUMBERED = (
    "Figure 1: A caption with +0.145 and stress (Hill 1973).",
    "Figure 2: The caption of a block.",
    "Table 1: Changes by tissue, median +0.145",
    "Table 2: A table whose caption stands apart.",
    "1 Introduction",
    "2 Methods",
    "2.1 Data",
    "2.1.1 The mice in a heading",
    "2.2 Results",
    "Figure 1 at the start of a sentence; Figure 1, Figure 2 in brackets, see 1, 2 without",
    "its word, Equation 2. See Section 2.2 and Section 2.1.1.",
    "meet in Equation 1.",
    "The change was +0.145, as Figure 1 shows.",
    "On mice and heads",
    "Ada Example",
    "(1.000/7)",
    "marrow +0.145",
    "Words of the first include.",
    "Gini (Gini 1912) and Hill numbers (Hill 1973; see Jost 2006, 3)",
    "Said by Gini (1912) long ago.",
)


@pytest.mark.parametrize("sentence", NUMBERED)
def test_html_and_pdf_say_the_same(rendered: tuple[Path, Path], sentence: str) -> None:
    # A PDF breaks lines where it likes, also at a hyphen of its own, so white space is left out.
    wanted = sentence.replace(" ", "")
    assert wanted in _html_text(rendered[0]).replace(" ", "")
    assert wanted in _pdf_text(rendered[1]).replace(" ", "")


def test_numbers_and_links_agree(rendered: tuple[Path, Path]) -> None:
    pattern = r"(Figure|Table|Equation|Section) ?(\d[\d.]*\d|\d)"
    in_html = sorted(re.findall(pattern, _html_text(rendered[0])))
    in_pdf = sorted(re.findall(pattern, _pdf_text(rendered[1])))
    assert in_html == in_pdf
    assert len(in_html) == 12
    page = rendered[0].read_text(encoding="utf-8")
    targets = set(re.findall(r'href="#([^"]+)" class="quarto-xref"', page))
    assert targets == {
        *("fig-a", "fig-b", "tbl-a", "tbl-b", "eq-gini", "eq-hill", "sec-results", "sec-deep")
    }
    for target in targets:
        assert page.count(f'id="{target}"') == 1


def test_equations_carry_their_numbers(rendered: tuple[Path, Path]) -> None:
    page, pdf = rendered[0].read_text(encoding="utf-8"), _pdf_text(rendered[1])
    for number in ("1", "2"):
        assert re.search(rf'<mo stretchy="false"[^>]*>\(</mo><mn>{number}</mn>', page)
        assert f"({number})" in pdf
    assert "<mn>3</mn>" not in page
    assert "+0.145" in re.findall(r'<annotation encoding="application/x-tex">(x =.*?)<', page)[0]


def _each_begins_with_the_notice(pdf: Path) -> None:
    pages = pypdf.PdfReader(pdf).pages
    assert len(pages) > 1
    for page in pages:
        assert _squeeze(page.extract_text()).startswith(NOTICE)


def test_notice_stands_above_the_title_and_on_every_page(rendered: tuple[Path, Path]) -> None:
    page = rendered[0].read_text("utf-8")
    first, colon, rest = NOTICE.partition(":")
    notice = f'<summary>{first}<span class="rest">{colon}{rest}</span></summary></details></div>'
    above = r'<body[^>]*>\s*<div class="bar"><div class="notice" role="note"><details>'
    assert re.search(above + re.escape(notice), page)
    assert page.index(notice) < page.index("<h1")
    _each_begins_with_the_notice(rendered[1])


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed on this machine")
def test_notice_is_on_every_page_that_a_browser_prints(
    rendered: tuple[Path, Path], tmp_path: Path
) -> None:
    switches = (
        *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
        *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
        *("--no-pdf-header-footer", f"--user-data-dir={tmp_path / 'profile'}"),
    )
    printed = tmp_path / "printed.pdf"
    command = [str(CHROMIUM), *switches, f"--print-to-pdf={printed}", rendered[0].as_uri()]
    # 4 s were seen; a style with :has() on the page's body took minutes.
    subprocess.run(command, check=True, capture_output=True, timeout=60)
    _each_begins_with_the_notice(printed)


def test_text_in_a_figure_is_text_in_both_pages(rendered: tuple[Path, Path]) -> None:
    assert re.search(
        r"<svg[^>]*>(?:(?!</svg>).)*>Kidney</text>", rendered[0].read_text("utf-8"), re.S
    )
    assert "Kidney" in _pdf_text(rendered[1])
    # In the figure's own font, which is not the page's.
    fonts = {
        str(font.get_object()["/BaseFont"])
        for page in pypdf.PdfReader(rendered[1]).pages
        for font in page["/Resources"].get("/Font", {}).values()
    }
    assert any(name.endswith("+DejaVuSans") for name in fonts), fonts


def test_the_page_has_a_description_and_a_link_at_every_heading(
    rendered: tuple[Path, Path],
) -> None:
    page = rendered[0].read_text("utf-8")
    assert '<meta name="description" content="The change was +0.145' in page
    assert 'lang="en-GB"' in page
    for target in ("sec-intro", "sec-methods", "sec-data", "sec-deep", "sec-results"):
        assert (
            f'<a href="#{target}" class="anchor" aria-label="Link to this section"></a></h' in page
        )


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed on this machine")
def test_the_page_on_a_phone_at_night(rendered: tuple[Path, Path]) -> None:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 390, "height": 844}, color_scheme="dark")
        # A busy machine is no failure.
        page.set_default_timeout(300_000)
        page.goto(rendered[0].as_uri())
        assert page.evaluate("document.documentElement.scrollWidth") == 390
        # The notice is its first words until it is opened: 36 of 844 pixels, and 22% before.
        rest, bar = page.locator(".notice .rest"), page.locator(".bar")
        assert not rest.is_visible()
        assert bar.bounding_box()["height"] < 0.1 * 844
        page.click(".notice summary")
        assert rest.is_visible()
        # The contents lie over the text from the bar's link until one of theirs is taken.
        contents = page.locator("#TOC")
        assert not contents.is_visible()
        page.click(".to-contents")
        assert contents.is_visible()
        page.click("#TOC a >> text=Methods")
        assert not contents.is_visible()
        assert page.url.endswith("#sec-methods")
        page.click(".to-contents")
        page.click("a.close")
        assert not contents.is_visible()
        # A figure fills the window, and goes back by the escape key.
        plate = page.locator(".plate").last
        plate.locator("button").click()
        assert plate.bounding_box() == {"x": 0, "y": 0, "width": 390, "height": 844}
        page.keyboard.press("Escape")
        assert plate.bounding_box()["height"] < 844
        red = page.evaluate("getComputedStyle(document.documentElement).backgroundColor")
        assert int(re.findall(r"\d+", red)[0]) < 60
        browser.close()


def test_the_page_says_who_rendered_it(rendered: tuple[Path, Path], renderer: Renderer) -> None:
    if renderer is Renderer.QUARTO:
        program = quarto.find_quarto()
        assert program is not None
        made_by = [f"Rendered by Quarto {quarto.quarto_version(program)}."] * 2
    else:
        command = [str(pandoc.bundled_pandoc()), "--version"]
        said = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        by_pandoc = f"Rendered by pandoc {said.split()[1]}"
        made_by = [f"{by_pandoc}.", f"{by_pandoc} and typst {typst.__version__}."]
    assert made_by[0] in _html_text(rendered[0])
    assert made_by[1] in _pdf_text(rendered[1])


def test_empty_notice_prints_nothing(project: Path, renderer: Renderer) -> None:
    _edit(project / "paper.qmd", NOTICE, "")
    page, pdf = render(project, "paper.qmd", out_dir=project / "out", renderer=renderer)
    assert '<div class="notice"' not in page.read_text(encoding="utf-8")
    assert "Simulated" not in _pdf_text(pdf)


def test_html_needs_nothing_else(rendered: tuple[Path, Path]) -> None:
    page = rendered[0].read_text(encoding="utf-8")
    sources = re.findall(r'<(?:img|script|link|iframe)[^>]*?(?:src|href)="([^"]*)"', page)
    assert all(source.startswith("data:") for source in sources)
    assert "@import" not in page
    assert re.findall(r"url\((?!['\"]?data:)[^)]*", page) == []
    assert re.findall(r'href="(?!#|https://doi\.org/|data:)[^"]*', page) == []
    assert "<script" not in page
    assert 'alt="Points that rise, +0.145"' in page
    assert 'alt="A square"' in page or 'aria-label="A square"' in page
    assert "{{&lt;" not in page


def test_renders_are_byte_identical_and_name_no_machine_path(project: Path, tmp_path: Path) -> None:
    first = render(project, "paper.qmd", out_dir=tmp_path / "a", renderer=Renderer.PANDOC)
    second = render(project, "paper.qmd", out_dir=tmp_path / "b", renderer=Renderer.PANDOC)
    for one, other in zip(first, second, strict=True):
        assert one.read_bytes() == other.read_bytes()
        for place in (str(tmp_path), str(Path.home()), str(REPORTS.parent), "/tmp/"):
            assert place.encode() not in one.read_bytes()
    reader = pypdf.PdfReader(first[1])
    assert reader.metadata is not None
    assert reader.metadata.title == "On mice and heads"
    assert reader.metadata.author == "Ada Example"


def test_path_with_spaces_and_other_letters(tmp_path: Path) -> None:
    folder = _write_project(tmp_path / "un étude — 研究")
    (folder / "figures" / "fig_a.png").rename(folder / "figures" / "fig é a.png")
    _edit(folder / "paper.qmd", "figures/fig_a.png", "figures/fig%20é%20a.png")
    results = render(folder, "paper.qmd", out_dir=folder / "ou t", renderer=Renderer.PANDOC)
    assert all(path.stat().st_size > 0 for path in results)


def test_widths_come_from_the_cells_or_from_the_author(project: Path) -> None:
    words = "many words " * 12
    head = f"See @tbl-c and @tbl-d.\n\n| a | b |\n|---|---|\n| x | {words} |\n\n"
    body = "| a | b |\n|---|---|\n| x | y |\n\n: Set {#tbl-d tbl-colwidths="
    _append(f'{head}: Free {{#tbl-c}}\n\n{body}"[20,80]"}}')(project)
    page, _ = render(project, "paper.qmd", out_dir=project / "out", renderer=Renderer.PANDOC)
    assert re.findall(r'col style="([^"]*)"', page.read_text("utf-8")) == [
        "width: 20%",
        "width: 80%",
    ]


def test_long_and_wide_tables_stay_whole(project: Path) -> None:
    names = [f"quantity_number_{i}" for i in range(9)]
    rows = [[f"row{r:03d}", *(f"{r}.{c}25" for c in range(8))] for r in range(90)]
    lines = ["| " + " | ".join(row) + " |" for row in [names, ["--:"] * 9, *rows]]
    table = "\n".join([*lines, "", ": A long and wide one {#tbl-long}"])
    (project / "_provenance" / "long.md").write_text(table, encoding="utf-8")
    _edit(
        project / "paper.qmd",
        "# References",
        "See @tbl-long.\n\n{{< include _provenance/long.md >}}\n\n# References",
    )
    _, pdf = render(project, "paper.qmd", out_dir=project / "out", renderer=Renderer.PANDOC)
    pages = [page.extract_text() for page in pypdf.PdfReader(pdf).pages]
    with_rows = [page for page in pages if re.search(r"row\d\d\d", page)]
    assert len(with_rows) >= 2
    # The head row comes again on each page of the table.
    assert all("number_8" in re.sub(r"[\n\u200b]", "", page) for page in with_rows)
    found = re.findall(r"row\d\d\d", "".join(with_rows))
    assert found == [row[0] for row in rows]
    right_edge = float(pypdf.PdfReader(pdf).pages[0].mediabox.right)

    def visit(text: str, _cm: object, tm: list[float], _font: object, size: float) -> None:
        assert not text.strip() or tm[4] < right_edge - 2.5 * 28.3

    for page in pypdf.PdfReader(pdf).pages:
        page.extract_text(visitor_text=visit)


def _replace(old: str, new: str, name: str = "paper.qmd") -> Callable[[Path], None]:
    return lambda project: _edit(project / name, old, new)


def _append(text: str) -> Callable[[Path], None]:
    return _replace("# References", f"{text}\n\n# References")


def _remove(name: str) -> Callable[[Path], None]:
    return lambda project: (project / name).unlink()


FAULTS: dict[str, tuple[Callable[[Path], None], str]] = {
    "shortcode of another kind": (
        _append("{{< meta title >}}"),
        "line 50: a shortcode that is no include of the paper on a line of its own. The paper",
    ),
    "missing include": (
        _remove("_provenance/table.md"),
        "reports/_provenance/table.md does not exist. Run the stage that writes it: dvc repro.",
    ),
    "include out of the project": (
        _append("{{< include ../secret.md >}}"),
        "reports/../secret.md does not exist. Run the stage",
    ),
    "include inside a paragraph": (
        _append("Words {{< include _provenance/table.md >}}"),
        "line 50: a shortcode that is no include of the paper on a line of its own.",
    ),
    "unresolved figure": (
        _replace("[@fig-a; @fig-b]", "[@fig-a; @fig-c]"),
        "paper.qmd, line 30: @fig-c refers to nothing. Give the label {#fig-c} or correct it.",
    ),
    "unresolved table": (_replace("@tbl-a]", "@tbl-z]"), "line 30: @tbl-z refers to nothing"),
    "unresolved equation": (_replace("@eq-hill]", "@eq-h]"), "line 31: @eq-h refers to nothing"),
    "unresolved section": (
        _replace("@sec-deep.", "@sec-de."),
        "line 31: @sec-de refers to nothing",
    ),
    "section without a number": (
        _replace("{#sec-results}", "{#sec-results .unnumbered}"),
        "line 31: @sec-results refers to a section without a number. Number",
    ),
    "duplicated label": (
        _replace("::: {#tbl-b}", "::: {#tbl-a}", "_provenance/table.md"),
        "_provenance/table.md, line 8: label tbl-a is given 2 times. Give each its own.",
    ),
    "label on nothing": (
        _append("Words {#tbl-loose} alone."),
        "line 50: label tbl-loose is not attached to anything. Write : Caption {#tbl-name}",
    ),
    "label of the wrong kind": (
        _replace("# Introduction {#sec-intro}", "# Introduction {#fig-intro}"),
        "line 12: label fig-intro stands on a Header. Write ![Caption]",
    ),
    "figure without a caption": (
        _append("See @fig-c.\n\n![](figures/fig_a.png){#fig-c}"),
        "fig-c stands on a Image. Write ![Caption]",
    ),
    "table without a caption": (
        _append("See @tbl-c.\n\n| a |\n|---|\n| 1 |\n\n: {#tbl-c}"),
        "tbl-c has no caption. Write : Caption",
    ),
    "block with two tables": (
        _replace("A table whose", "| c |\n|---|\n| 1 |\n\nA table whose", "_provenance/table.md"),
        "_provenance/table.md, line 8: the block tbl-b holds Table, Table, Para. It must hold",
    ),
    "figure that no sentence mentions": (
        _append("![Alone](figures/fig_a.png){#fig-alone}"),
        "line 50: no sentence refers to fig-alone. Write @fig-alone where it is discussed.",
    ),
    "table that no sentence mentions": (
        _replace("[-@tbl-b]", "[-@tbl-a]"),
        "_provenance/table.md, line 8: no sentence refers to tbl-b. Write @tbl-b",
    ),
    "missing figure file": (
        _remove("figures/fig_b.svg"),
        'paper.qmd, line 45: figure "figures/fig_b.svg" does not exist in the',
    ),
    "figure from the network": (
        _replace("figures/fig_b.svg", "https://example.org/b.svg"),
        'line 45: figure "https://example.org/b.svg" is not a path from the paper\'s folder.',
    ),
    "unknown citation": (
        _replace("[@gini1912]", "[@gini1921]"),
        "paper.qmd, line 14: citation @gini1921 is not in references.bib. Correct the key",
    ),
    "citation and reference in one bracket": (
        _replace("[@gini1912]", "[@gini1912; @fig-a]"),
        "paper.qmd, line 14: one bracket holds a citation and the reference @fig-a.",
    ),
    "missing bibliography": (
        _remove("references.bib"),
        '_quarto.yml: bibliography "references.bib" does not exist in the project.',
    ),
    "no notice": (
        _replace("notice:", "note:"),
        'paper.qmd, line 1: the paper has no "notice". Write in its YAML head the sentence',
    ),
    "missing style": (_remove("style.typ"), '_quarto.yml: include-in-header "style.typ" does not'),
    "missing filter": (_remove("paper.lua"), '_quarto.yml: filters "paper.lua" does not exist'),
    "executed cell": (
        _append("```{python}\n1 + 1\n```"),
        "line 50: a cell that is to be executed. The paper computes nothing",
    ),
    "executed value": (
        _append("The sum `{python} 1 + 1`."),
        "line 50: a cell that is to be executed. The paper computes nothing",
    ),
    "callout": (
        _append("::: {.callout-note}\nWords.\n:::"),
        "line 50: .callout-note is Quarto's alone. Write it in plain markdown.",
    ),
    "format in the paper": (
        _replace("date: 2026-01-31", "format: html"),
        "paper.qmd, line 6: format belongs in _quarto.yml, where both renderers read it.",
    ),
    "date that moves": (
        _replace("date: 2026-01-31", "date: today"),
        "paper.qmd, line 6: this date changes by itself. Write the day, or leave date out.",
    ),
    "no title": (
        _replace("title:", "subtitle:"),
        "paper.qmd, line 1: the paper has no title.",
    ),
    "sections that begin at the second level": (
        lambda project: (project / "paper.qmd").write_text(PAPER.replace("\n# ", "\n## ")),
        "line 12: no section begins with a single #",
    ),
    "no paper": (_remove("paper.qmd"), "paper.qmd does not exist. Run the stage that writes it"),
    "no project file": (_remove("_quarto.yml"), "_quarto.yml does not exist. Run the stage"),
    "head that does not parse": (
        _replace("notice:", "notice: ["),
        "pandoc failed with status 64: Error parsing YAML metadata at",
    ),
    "shortcode in an include": (
        _replace("tissue", "{{< include b.md >}}", "_provenance/table.md"),
        "_provenance/table.md, line 1: a shortcode that is no include",
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_fault_is_one_line_that_names_it(project: Path, tmp_path: Path, fault: str) -> None:
    spoil, message = FAULTS[fault]
    spoil(project)
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    with pytest.raises(RenderError) as caught:
        check_source(read_source(project, "paper.qmd"), folder=scratch)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_check_lists_the_files_used(project: Path, tmp_path: Path) -> None:
    files = check_source(read_source(project, "paper.qmd"), folder=tmp_path)
    assert set(files) == {"figures/fig_a.png", "figures/fig_b.svg", *PROJECT} - {"_quarto.yml"}


def test_nothing_is_left_when_the_pdf_fails(
    project: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (project / "figures" / "fig_b.svg").write_text("no picture")
    out_dir = project / "_output"
    assert load(PARAMS).render.renderer is Renderer.PANDOC
    words = ("--project", project, "--out-dir", out_dir, "--params", PARAMS)
    assert main([str(word) for word in words]) == 1
    assert "error: typst failed: " in caplog.text
    assert str(project) not in caplog.text
    assert not out_dir.exists()


def test_old_pages_stay_when_a_render_fails(project: Path) -> None:
    out_dir = project / "_output"
    pages = render(project, "paper.qmd", out_dir=out_dir, renderer=Renderer.PANDOC)
    before = [path.read_bytes() for path in pages]
    (project / "figures" / "fig_b.svg").write_text("no picture")
    with pytest.raises(RenderError):
        render(project, "paper.qmd", out_dir=out_dir, renderer=Renderer.PANDOC)
    assert [(out_dir / f"paper.{kind}").read_bytes() for kind in ("html", "pdf")] == before


def test_failing_pandoc_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(RenderError, match="pandoc failed with status 21: Unknown input format x"):
        pandoc.run_pandoc(["--from=x"], "", folder=tmp_path)


def test_asking_for_quarto_without_it_says_so(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(project))
    with pytest.raises(RenderError, match="quarto is not on PATH"):
        render(project, "paper.qmd", out_dir=project / "out", renderer=Renderer.QUARTO)


def _files(folder: Path) -> dict[str, bytes]:
    """Return what lies in a folder, by path."""
    files = (path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


@pytest.fixture
def by_quarto() -> str:
    """Return the path of Quarto."""
    program = quarto.find_quarto()
    if program is None:
        pytest.skip("quarto is not installed on this machine")
    return program


def test_a_bare_quarto_makes_the_same_pages_in_a_folder_of_its_own(
    project: Path, by_quarto: str
) -> None:
    by_stage = render(project, "paper.qmd", out_dir=project / "_output", renderer=Renderer.QUARTO)
    before = _files(project)
    subprocess.run([by_quarto, "render", str(project)], check=True, capture_output=True)
    after = _files(project)
    assert {name: after[name] for name in before} == before
    new = {name.split("/")[0] for name in after.keys() - before.keys()}
    assert new == {".quarto", "_quarto"}
    for path, read in zip(by_stage, (_html_text, _pdf_text), strict=True):
        assert read(project / "_quarto" / path.name) == read(path)


def test_what_quarto_leaves_unresolved_is_an_error(project: Path, by_quarto: str) -> None:
    """Of itself it ends well, with a question mark on the page."""
    _append("See @fig-nowhere.")(project)
    with pytest.raises(RenderError, match=r"something unresolved: .*fig-nowhere"):
        quarto.render_with_quarto(read_source(project, "paper.qmd"), folder=project)
    (project / "style.typ").unlink()
    _edit(project / "paper.qmd", "See @fig-nowhere.", "")
    with pytest.raises(RenderError, match=r"something unresolved: .*style\.typ"):
        quarto.render_with_quarto(read_source(project, "paper.qmd"), folder=project)
