"""Documents: relative links have a target, and the two long ones stay short."""

import pathlib
import re

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[1]
HIDDEN = (".github",)
DOCUMENTS = sorted(
    path
    for path in ROOT.rglob("*.md")
    if not any(part.startswith(".") and part not in HIDDEN for part in path.relative_to(ROOT).parts)
    and path.relative_to(ROOT).parts[0] != "runs"
)
LINK = re.compile(r"\]\(([^)\s]+)\)")

every_document = pytest.mark.parametrize(
    "path", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT))
)


def _prose(text: str) -> str:
    """The text without code blocks, in which brackets are no links."""
    return re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL)


def _anchors(path: pathlib.Path) -> set[str]:
    """The anchors that GitHub makes of a document's headings."""
    headings = re.findall(r"^#+ (.+)$", _prose(path.read_text()), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@every_document
def test_relative_links_have_a_target(path):
    links = [link for link in LINK.findall(_prose(path.read_text())) if "://" not in link]
    for link in links:
        name, _, anchor = link.partition("#")
        target = (path.parent / name).resolve() if name else path
        assert target.is_relative_to(ROOT) and target.exists(), link
        assert not anchor or anchor in _anchors(target), link


@every_document
def test_files_named_in_documents_exist(path):
    if path.name == "CHANGELOG.md":
        return  # names files of earlier versions
    folders = "nif_jax|configs|launch|benchmarks|notebooks|docs|tests"
    named = re.findall(rf"(?<![\w/.<-])((?:{folders})/[\w/]+\.\w+)", _prose(path.read_text()))
    assert [n for n in named if not (ROOT / n).exists()] == []


@pytest.mark.parametrize("name", ["README.md", "results/README.md"])
def test_entry_pages_have_at_most_150_lines(name):
    assert len((ROOT / name).read_text().splitlines()) <= 150
