#!/bin/sh
# msgspec 0.22.0 with cloudpickle 3.1.2: a Struct class that is pickled by value, as classes of `__main__` are by Ray, Dask and
# Spark, arrives without its fields: no error when it is sent or loaded, and every value converted to it is empty. Its
# methods arrive. A class that can be imported is pickled by name and arrives whole, and so does a dataclass by value.
# loid-infer starts its Ray driver as a function of an importable module, never with `python -m`.
# Seen:
#   Struct, by value         fields (), convert gives Job(), attribute error
#   dataclass, by value      Job(run='a')
set -eu
work=$(mktemp -d); trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install -q --disable-pip-version-check msgspec==0.22.0 cloudpickle==3.1.2
cat > "$work/sender.py" <<'PY'
import subprocess
import sys
from dataclasses import dataclass

import cloudpickle
import msgspec


class Job(msgspec.Struct):
    run: str

    def method(self) -> str:
        return "here"


@dataclass
class Plain:
    run: str


RECEIVER = """
import sys, cloudpickle, msgspec
job, plain = cloudpickle.loads(sys.stdin.buffer.read())
made = msgspec.convert({"run": "a"}, job)
print(job.__struct_fields__, made, hasattr(made, "run"), made.method(), plain(run="a").run)
"""
said = subprocess.run(
    [sys.executable, "-c", RECEIVER], input=cloudpickle.dumps((Job, Plain)), capture_output=True, check=True
).stdout.decode()
print(said)
assert msgspec.convert({"run": "a"}, Job).run == "a"
assert said.split("\n")[0] == "() Job() False here a", "the behavior changed"
PY
"$work/venv/bin/python" "$work/sender.py"
