"""The pages: Python blocks print what their last comments say, links lead somewhere, README stays short."""

import contextlib
import io
import pathlib
import re

import pytest

import experiments

ROOT = pathlib.Path(__file__).parents[1]
PAGES = {path.name: path for path in (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")))}
TEXT = {name: path.read_text() for name, path in PAGES.items()}
BLOCKS = [(name, block) for name in PAGES for block in re.findall(r"(?ms)^```python\n(.*?)^```$", TEXT[name])]


@pytest.mark.parametrize("page, block", BLOCKS, ids=[f"{k}-{name}" for k, (name, _) in enumerate(BLOCKS)])
def test_a_block_prints_what_it_says(page, block):
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(compile(block, page, "exec"), {"__name__": "page"})
    said = [line[2:] for line in block.splitlines() if line.startswith("# ")]
    assert said and printed.getvalue().splitlines() == said


def test_there_are_blocks():
    pages = [name for name, _ in BLOCKS]
    assert (pages.count("README.md"), pages.count("theorem.md")) == (3, 1)


@pytest.mark.parametrize("page", PAGES)
def test_links_and_pictures_are_there(page):
    links = re.findall(r"\]\(([^)\s]+)\)", TEXT[page])
    for link in links:
        if not link.startswith("https://"):
            file, _, heading = link.partition("#")
            assert not heading and (PAGES[page].parent / file).is_file(), link


@pytest.mark.parametrize("page", PAGES)
def test_lines_fit_on_a_screen(page):
    """At most 120 columns; a row of a table cannot be broken, nor what a command printed or is."""
    for line in TEXT[page].splitlines():
        assert len(line) <= 120 or (page != "README.md" and line.startswith(("|", "    "))), line


@pytest.mark.parametrize("page", [page for page in PAGES if page != "README.md"])
def test_a_page_opens_with_its_answer_and_a_picture(page):
    title, answer, picture, *_ = TEXT[page].split("\n\n")
    assert title.startswith("# ") and answer[0].isupper() and answer.count("\n") <= 3
    assert picture.startswith("![") and picture.endswith(".png)")


def test_readme_reads_at_one_sitting():
    """1,500 words of prose, 1,800 with code and tables; and the theorem on a page is a page."""
    text = TEXT["README.md"]
    prose = re.sub(r"(?ms)^```.*?^```$", "", text)
    prose = re.sub(r"(?m)^\|.*$", "", prose)
    assert len(text.split()) <= 1800 and len(prose.split()) <= 1500
    page = next(block for name, block in BLOCKS if name == "README.md")
    assert len([line for line in page.splitlines() if not line.startswith("# ")]) <= 45


def test_readme_names_every_study_and_every_page():
    for name in (*experiments.STUDIES, *(f"docs/{n}" for n in PAGES)):
        assert name == "docs/README.md" or name in TEXT["README.md"], name
