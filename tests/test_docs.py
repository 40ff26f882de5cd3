"""README and docs agree with the result files and the command line."""

import json
import re
from pathlib import Path

import pytest

from bench.docs import CLI, PAGES, commands, rendered

ROOT = Path(__file__).parents[1]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_generated_parts_are_current(page: Path) -> None:
    assert rendered(page) == page.read_text(), "run `python -m bench.docs`"


def test_every_command_is_documented() -> None:
    assert CLI in PAGES
    assert commands() == CLI.read_text()
    for command in ("ingest", "encode", "plugin train", "cache verify"):
        assert f"## `loid-infer {command}`" in CLI.read_text()


def test_every_result_is_shown_somewhere() -> None:
    shown = {name for page in PAGES for name in re.findall(r"<!-- bench:(\w+)", page.read_text())}
    stems = {file.stem.split(".")[0] for file in (ROOT / "bench" / "results").glob("*.json")}
    assert stems <= shown


def test_the_readme_is_short() -> None:
    assert len((ROOT / "README.md").read_text().splitlines()) <= 150


def test_results_name_machine_versions_and_commit() -> None:
    files = sorted((ROOT / "bench" / "results").glob("*.json"))
    assert files
    for file in files:
        record = json.loads(file.read_text())
        assert record.keys() >= {"question", "date", "commit", "machine", "versions", "notes", "rows"}, file
        assert record["machine"]["processor"]
        assert record["rows"]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)]+)\)", page.read_text()):
        if "://" in target:
            continue
        name, _, section = target.partition("#")
        linked = page.parent / name if name else page
        assert linked.exists(), target
        if section:
            headings = re.findall(r"^#+ (.+)$", linked.read_text(), re.MULTILINE)
            assert section in [re.sub(r"[^\w\- ]", "", heading).lower().replace(" ", "-") for heading in headings], (
                target
            )


def test_the_design_page_names_modules_that_exist() -> None:
    named = set(re.findall(r"`([a-z_]+(?:/[a-z_0-9]+)*\.py)`", (ROOT / "docs" / "design.md").read_text()))
    assert len(named) > 40
    roots = (ROOT, ROOT / "loid_infer", ROOT / "loid_infer" / "learning", ROOT / "loid_infer" / "evaluation")
    assert {name for name in named if not any((root / name).exists() for root in roots)} == set()
