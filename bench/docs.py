"""Writes what is generated in README.md and docs/: benchmark tables from bench/results/, docs/cli.md from Typer.

python -m bench.docs            write it
python -m bench.docs --check    exit 1 if something differs

`<!-- bench:NAME -->` is followed by the table of bench/results/NAME.json and those of other processors, which have
files of their own; `<!-- bench:NAME:1,4 -->` by one table of two rows of each.
"""

import json
import re
import sys
from pathlib import Path

import typer
from typer.cli import get_docs_for_click

from bench.record import RESULTS, ROOT, said, table
from loid_infer.cli.app import build

_BLOCK = re.compile(r"(<!-- bench:(\w+)(?::([\d,]+))? -->\n).*?(<!-- /bench -->)", re.DOTALL)
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
CLI = ROOT / "docs" / "cli.md"


def rendered(path: Path) -> str:
    """The text that a page should have."""
    return commands() if path == CLI else _BLOCK.sub(_block, path.read_text())


def commands() -> str:
    """Every command with its arguments and options, as Typer documents them."""
    app = typer.main.get_group(build())
    for group in (app, *app.commands.values()):
        for command in getattr(group, "commands", {}).values():
            command.short_help = command.help.split("\n\n")[0]  # in the lists too, where Typer cuts it at 45 characters
    context = typer.Context(app, info_name="loid-infer")
    return get_docs_for_click(obj=app, ctx=context, name="loid-infer", title="Command line").strip() + "\n"


def _block(match: re.Match[str]) -> str:
    begin, name, numbers, end = match.groups()
    if name == "glance":
        return f"{begin}\n{table(glance())}\n\n{end}"
    records = _records(name)
    if not numbers:
        return begin + "".join(_result(file, record) for file, record in records.items()) + "\n" + end
    chosen = [int(number) - 1 for number in numbers.split(",")]
    rows = [{"processor": _processor(record)} | record["rows"][i] for record in records.values() for i in chosen]
    notes = " ".join(_notes(file, record) for file, record in records.items())
    return f"{begin}\n{table(rows)}\n\n<sub>{notes}</sub>\n\n{end}"


def _records(name: str) -> dict[Path, dict]:
    """The results of that name, one file per processor."""
    files = [RESULTS / f"{name}.json", *sorted(RESULTS.glob(f"{name}.*.json"))]
    return {file: json.loads(file.read_text()) for file in files if file.exists()}


def _result(file: Path, record: dict) -> str:
    if file.stem == "walk":
        shown = (f"$ {row['command']}\n{row['prints']}" for row in record["rows"])
        return "\n```console\n{}\n```\n".format("\n".join(shown))
    return f"\n{table(record['rows'])}\n\n<sub>{_notes(file, record)}</sub>\n"


def _notes(file: Path, record: dict) -> str:
    machine = record["machine"]
    gpus = "".join(f"{gpu}, " for gpu in machine.get("gpus", []))
    measured = f"{gpus}{machine['threads']} threads of {machine['processor']} ({', '.join(machine['features'])})"
    return f"{record['notes']} {measured}, {record['date']}; `bench/results/{file.name}`."


def _processor(record: dict) -> str:
    name = record["machine"]["processor"].replace("(R)", "").removesuffix(" Processor")
    return f"{name} with AMX" if "amx_bf16" in record["machine"]["features"] else str(name)


def glance() -> list[dict]:
    """The questions people ask first, each with its answer in figures and where the whole table is."""
    head, plugin = (_row(file, model=model) for file, model in (("heads", "head"), ("plugged", "own plugin")))
    digital = _row("heads", domain="digital_music", split="random", model="head")
    time = _row("heads", domain="musical_instruments", split="time", model="head")
    plain, over = (_row("relora", split="mean", over=over) for over in ("none", "digital_music"))
    trained = ("from the store", "encoder in the loop, loid-infer", "encoder in the loop, transformers fp32")
    stored, own, plain_loop = (_row("loop", way=way)["epoch_s"] for way in trained)
    score, network = (_row("score", preset=preset)["pairs_per_s"] for preset in ("default", "paper"))

    def against_bias(row: dict) -> str:
        return f"{row['mse']:.4f}, difference {row['difference']:+.4f} ({row['interval']})"

    ratings = (
        f"Barely, if at all. Digital Music: {against_bias(digital)}. Musical Instruments: {against_bias(head)}; "
        f"split by time: {against_bias(time)}"
    )
    ahead, plainly = said(over["steps_to_0.65"]), said(plain["steps_to_0.65"])
    relora = (
        f"Musical Instruments on top of Digital Music reaches the same validation error sooner ({ahead} steps against "
        f"{plainly}) and ends no better (MSE when each rating is predicted from the text of the same review: "
        f"{over['test_mse']:.3f} against {plain['test_mse']:.3f})"
    )
    speed = "; ".join(map(_speed, _records("encode").values()))
    epoch = (
        f"{stored:.2f} s. With the encoder inside the loop: {own / 60:.1f} min with ours, {plain_loop / 60:.0f} min "
        "with transformers in fp32"
    )
    alone = "with the linear head (preset `default` chooses one of the two by validation error)"
    scoring = f"{said(network)} pairs/s with the neural network, {said(score)} {alone}"
    answers = [
        (
            "Do review texts improve rating prediction? (test MSE, difference from a bias model's, 95 % interval)",
            ratings,
            "accuracy",
        ),
        (
            "Do LoRA plugins improve the head? (difference of test MSE from the frozen encoder's, 95 % interval)",
            f"No: {plugin['difference']:+.4f} ({plugin['interval']})",
            "plugins",
        ),
        ("Does it help to train a plugin on top of another domain's?", relora, "plugins"),
        ("How fast are texts encoded on two CPU cores?", speed, "encoding"),
        ("How long does an epoch of the head take with stored vectors?", epoch, "training-and-scoring"),
        ("How fast are pairs scored, file to file?", scoring, "training-and-scoring"),
    ]
    return [
        {"question": question, "answer": answer, "more": f"[table](docs/benchmarks.md#{section})"}
        for question, answer, section in answers
    ]


def _speed(record: dict) -> str:
    """Our fastest way to encode against the default and the fastest way of sentence-transformers."""
    rows = sorted(record["rows"], key=lambda row: -row["tokens_per_s"])
    ours = next(row for row in rows if row["way"].startswith("loid-infer"))
    theirs = next(row for row in rows if not row["way"].startswith("loid-infer"))
    precision, ratio = ours["way"].split()[1].removesuffix(","), ours["tokens_per_s"] / theirs["tokens_per_s"]
    return (
        f"{_processor(record)}: {said(ours['tokens_per_s'])} tokens/s in {precision}, "
        f"{ours['speedup_over_default']:.1f} times sentence-transformers' default and {ratio:.1f} times its fastest"
    )


def _row(file: str, **wanted: str) -> dict:
    """The first row of a result that has these values."""
    rows = json.loads((RESULTS / f"{file}.json").read_text())["rows"]
    return next(row for row in rows if wanted.items() <= row.items())


def main() -> None:
    texts = {path: rendered(path) for path in sorted({*PAGES, CLI})}
    if "--check" in sys.argv[1:]:
        sys.exit(any(not path.exists() or path.read_text() != text for path, text in texts.items()))
    for path, text in texts.items():
        path.write_text(text)


if __name__ == "__main__":
    main()
