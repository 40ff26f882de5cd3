"""`report` of rankings: heads, metrics, differences, groups and examples, and what is missing of them."""

import json
import shutil

import pytest

from loid_infer import ingest_implicit, report
from loid_infer.settings import Workspace
from tests.pages.records import RANKING_CURVE, encoder, ranking, ranking_head, write
from tests.verbs.test_report import EVIL, page_of


@pytest.fixture
def workspace(tmp_path) -> Workspace:
    """Two domains of interactions alone, one with a head, and a head of both."""
    made = Workspace(tmp_path / "ws")
    for domain in ("toys", "films"):
        lines = [json.dumps({"user_id": f"u{i % 5}", "item_id": f"i{i % 7}", "timestamp": i}) for i in range(30)]
        write(tmp_path / f"{domain}.jsonl", "\n".join(lines))
        ingest_implicit([tmp_path / f"{domain}.jsonl"], domain, workspace=made)
    write(made.encoder("base") / "manifest.json", encoder())
    write(made.head("toys-text") / "manifest.json", ranking_head())
    write(made.head("toys-sasrec") / "manifest.json", ranking_head("toys-sasrec", model="sasrec"))
    write(made.head("toys-sasrec") / "curve.json", RANKING_CURVE)
    write(made.head("both") / "manifest.json", ranking_head("both", ("films", "toys"), "mf", val={}))
    write(made.reports / "toys.ranking.json", ranking())
    write(made.reports / "films+toys.ranking.json", ranking(("films", "toys"), ("both",)))
    return made


def commands(workspace: Workspace, domain: str | None = None) -> list[str]:
    return [missing.command for missing in report(domain, workspace=workspace).not_measured]


def test_the_page_shows_the_numbers_of_rankings(workspace) -> None:
    result = report(workspace=workspace)
    assert (result.domains, result.n_heads, result.n_ranking_heads, result.left_out) == (("films", "toys"), 0, 3, ())
    text = page_of(workspace).text
    for expected in (
        *("30 interactions · 5 users · 7 items", "Ranking : both", "1 encoder, 3 ranking heads."),
        *("1,234 users, split leave-one-out, seed 0", "contains interactions that happened after test targets"),
        "toys toys-text head 1,234 0.1280 0.1180 to 0.1380 0.0800 0.0700 to 0.0900 0.0720 0.0620 to 0.0820",
        *("popularity 0.0123 +0.0677 +0.0477 to +0.0877", "0.0700 +0.0100 −0.0100 to +0.0300"),
        *("1 to 3 (700)", "more (534)", "toys-text 0.0400 0.1600", "Recall@10 by training interactions of the item"),
        *("u7 Last of 17 items: a drum · a string", "Took next: a guitar", "toys-text 3.5 a cable · B000123"),
        *("toys-sasrec not ranked", "best 0.0876 at 160", "training sequences seen"),
        *("toys-text text base toys leave-one-out, seed 0 0.1414 0.0876 0.0717 2", "whitening 0.5 0.0876"),
        *("all domains both head", "both mf films, toys", "ranking head both films + toys, mf interactions alone"),
    ):
        assert expected in text, expected
    assert "mean squared errors" not in text.lower()
    assert "drawn candidates are" not in text
    assert "table of reviews" not in text


def test_a_domain_report_contains_the_rankings_of_that_domain(workspace) -> None:
    films, toys = page_of(workspace, "films").text, page_of(workspace, "toys").text
    assert "all domains both head" in films and "all domains both head" in toys
    assert "toys-text" not in films and "toys-text" in toys
    assert report("films", workspace=workspace).n_ranking_heads == 1
    assert "The head" not in films


def test_candidates_are_marked_and_in_a_table_of_their_own(workspace) -> None:
    (workspace.reports / "toys.ranking.json").unlink()
    write(workspace.reports / "toys.100.ranking.json", ranking(candidates="100"))
    text = page_of(workspace).text
    assert "Among 100 drawn candidates: 1,234 users" in text and "not comparable with them" in text
    tables = text.split("Ranking of ")[1:]
    assert [table.startswith(("toys Among 100", "films + toys Full")) for table in tables] == [True, True]
    assert "loid-infer evaluate --domain toys" in commands(workspace)


def test_what_was_not_measured_is_listed_with_its_command(workspace) -> None:
    write(workspace.head("both") / "curve.json", RANKING_CURVE)
    assert commands(workspace) == []
    (workspace.head("both") / "curve.json").unlink()
    (workspace.reports / "films+toys.ranking.json").unlink()
    tuned = ranking_head("tuned", model="sequence+id", split="time", seed=3, template="{brand}")
    tuned["options"] |= {"dim": 128, "dropout": 0.3, "trials": 6, "layers": 1}
    tuned["trials"] = [{"settings": {"dim": 128, "dropout": 0.3}, "ndcg": 0.1}, {"settings": {}, "ndcg": 0.05}]
    write(workspace.head("tuned") / "manifest.json", tuned)
    again = "loid-infer llmrec fit --domain toys --head sequence+id --layers 1 --trials 6 --seed 3 --split time"
    again += " --encoder base --template '{brand}' --name tuned"
    assert commands(workspace) == [
        "loid-infer evaluate --domain films --domain toys",
        "loid-infer evaluate --domain toys --head tuned",
        "loid-infer cf fit --domain films --domain toys --model mf --name both",
        again,
    ]
    shutil.rmtree(workspace.root / "exports")
    assert commands(workspace) == [
        "loid-infer cf fit --domain films",
        "loid-infer cf fit --domain toys",
        "loid-infer export",
    ]


def test_results_without_examples_are_read_and_those_of_other_data_do_not_count(workspace) -> None:
    record = ranking()
    del record["examples"]
    write(workspace.reports / "toys.ranking.json", record)
    result = report("toys", workspace=workspace)
    assert result.left_out == ()
    assert "Examples with titles of toys" in [missing.what for missing in result.not_measured]
    write(workspace.reports / "toys.ranking.json", ranking(sequences_digest="older"))
    whats = [missing.what for missing in report("toys", workspace=workspace).not_measured]
    assert "Ranking by toys-sasrec, toys-text" in whats
    assert "older table" in page_of(workspace).text


def test_an_unreadable_ranking_is_left_out_and_listed(workspace) -> None:
    record = ranking()
    del record["summary"][0]["n_users"]
    write(workspace.reports / "toys.ranking.json", record)
    write(workspace.reports / "films.ranking.json", ranking())
    write(workspace.reports / "x.ranking.json", ranking(("../x",)))
    write(workspace.head("toys-text") / "manifest.json", ranking_head(domains=("a b",)))
    write(workspace.head("both") / "manifest.json", {"kind": "ranking", "format": 1})
    write(workspace.head("toys-sasrec") / "curve.json", {"losses": [], "eval_steps": [1], "eval_mse": []})
    messages = "\n".join(report(workspace=workspace).left_out)
    for expected in (
        "reports/toys.ranking.json: the field summary[0].n_users is invalid",
        "reports/films.ranking.json: the file is not the one its name says",
        "reports/x.ranking.json: '../x': invalid domain name",
        "exports/heads/toys-text: 'a b': invalid domain name",
        "exports/heads/both: ",
        "exports/heads/toys-sasrec/curve.json: ",
    ):
        assert expected in messages, (expected, messages)


def test_text_of_rankings_is_escaped(workspace) -> None:
    record = ranking(heads=(EVIL,), note=EVIL, split=EVIL)
    record["groups"][0]["group"] = f"{EVIL}={EVIL}"
    record["examples"][0] |= {"user": EVIL, "target": EVIL, "history": [EVIL]}
    write(workspace.reports / "toys.ranking.json", record)
    head = ranking_head(model=EVIL, encoder=EVIL, split=EVIL, trials=[{"settings": {EVIL: EVIL}, "ndcg": 0.1}])
    write(workspace.head("toys-text") / "manifest.json", head | {"options": {EVIL: EVIL, "dim": EVIL}})
    read = page_of(workspace)
    assert "script" not in read.tags
    assert read.text.count('"><script>alert(1)</script>&') > 10
    ids = [value for name, value in read.attributes if name == "id"]
    assert len(ids) == len(set(ids))
    assert all(value.startswith("#") for name, value in read.attributes if name in ("href", "src", "xlink:href"))
