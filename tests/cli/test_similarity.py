"""`loid-infer plugin similarity` as a user meets it."""

from pathlib import Path

from loid_infer import ingest
from loid_infer.settings import Workspace
from tests.cli.test_cli import as_json, loid
from tests.conftest import toy_texts, write_reviews


def test_the_similarity_matrix_is_printed_as_json_or_as_a_table(toy_base: Path, tmp_path: Path) -> None:
    for domain in ("toys", "books"):
        source = write_reviews(tmp_path / f"{domain}.jsonl", [f"{domain} {text}" for text in toy_texts(20)])
        ingest([source], domain, workspace=Workspace(tmp_path))
    command = ["plugin", "similarity", "toys", "books", "--base", str(toy_base), "--n-texts", "8", "-w", str(tmp_path)]
    found = as_json(loid(*command, "--json", "--quiet"))
    assert found["domains"] == ["toys", "books"]
    ((one, between), (again, two)) = found["matrix"]
    assert between == again
    assert Path(found["path"]).read_bytes()[:4] == b"\x89PNG"
    people = loid(*command)
    assert people.stderr == ""
    head, first, second = (line.split() for line in people.stdout.splitlines()[-3:])
    assert head == ["toys", "books"]
    assert first == ["toys", f"{one:.4g}", f"{between:.4g}"]
    assert second == ["books", f"{between:.4g}", f"{two:.4g}"]
    assert "pooling" in people.stdout and "mean" in people.stdout
    lone = loid("plugin", "similarity", "toys", "-w", str(tmp_path))
    assert (lone.returncode, lone.stdout) == (2, "")
    assert "expected at least two, got 1" in lone.stderr
