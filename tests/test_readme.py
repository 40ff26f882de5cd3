"""The README says what the result files say."""

import json
import re
from pathlib import Path

from bench.readme import rendered

ROOT = Path(__file__).parents[1]


PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def test_figures_come_from_the_result_files() -> None:
    assert "<!-- bench:" in PAGES[0].read_text()
    for page in PAGES:
        assert rendered(page.read_text()) == page.read_text(), f"{page.name}: run `python -m bench.readme`"


def test_results_name_machine_versions_and_commit() -> None:
    files = sorted((ROOT / "bench" / "results").glob("*.json"))
    assert files
    for file in files:
        record = json.loads(file.read_text())
        assert record.keys() >= {"question", "date", "commit", "machine", "versions", "notes", "rows"}, file
        assert record["machine"]["processor"]
        assert record["rows"]


def test_links_lead_somewhere() -> None:
    for page in PAGES:
        for target in re.findall(r"\]\(([^)#]+)\)", page.read_text()):
            if "://" not in target:
                assert (page.parent / target).exists(), f"{page.name} -> {target}"
