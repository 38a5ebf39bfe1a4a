"""Links of the pages lead somewhere: to a file that is there, and to a heading that it has."""

import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
LINK = re.compile(r"\]\(([^()\s]+(?:\([^()\s]*\)[^()\s]*)*)\)|^\[[^\]]+\]:\s*(\S+)", re.M)
TRACKED = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True).stdout.split("\0")
PAGES = [name for name in TRACKED if name.endswith(".md") and (ROOT / name).is_file()]


def prose(page):
    """The page without what is shown as code."""
    text = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.M | re.S)
    return re.sub(r"`[^`\n]*`", "", re.sub(r"^    .*$", "", text, flags=re.M))


def anchors(page):
    """What GitHub calls the page's headings: small letters and digits, hyphens for spaces, the second of a name -1."""
    found = set()
    for title in re.findall(r"^#+ (.+)$", re.sub(r"^```.*?^```", "", page.read_text(), flags=re.M | re.S), re.M):
        plain = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", title).lower()
        name = re.sub(r"[^\w\- ]", "", plain).strip().replace(" ", "-")
        found.add(next(one for n in range(99) if (one := f"{name}-{n}" if n else name) not in found))
    return found


@pytest.mark.parametrize("name", PAGES)
def test_links_lead_somewhere(name):
    page = ROOT / name
    for link in (one or other for one, other in LINK.findall(prose(page))):
        path, _, anchor = link.partition("#")
        if ":" in path:
            continue  # elsewhere
        there = (page.parent / path).resolve() if path else page
        assert there.exists(), link
        assert not anchor or anchor in anchors(there), link


def test_every_kernel_is_on_its_page():
    page = (ROOT / "shaders" / "README.md").read_text()
    kernels = {path.stem for path in (ROOT / "shaders").glob("*/*.cl")}
    assert len(kernels) > 60 and not {name for name in kernels if f"`{name}`" not in page}


def test_a_link_that_leads_nowhere_is_seen(tmp_path):
    page = tmp_path / "a.md"
    code = "```\n# no\n[x](y)\n```\n`[x](y)`"
    page.write_text(f"# A `b`: c, d\n## Twice\n## Twice\n{code} [1](b.md#z) [2](#a) text\n[3]: c\n")
    assert anchors(page) == {"a-b-c-d", "twice", "twice-1"}
    assert [one or other for one, other in LINK.findall(prose(page))] == ["b.md#z", "#a", "c"]
