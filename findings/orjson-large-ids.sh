#!/bin/sh
# Google Local reviews have user ids of 21 digits. Where such an id is a JSON number, the standard library reads it exactly;
# orjson reads whole numbers from 2^64 on as rounded floating point numbers, without an error, so that ids of different
# users become equal.
#
# Seen with orjson 3.13.0:
#   two ids: 101463350189962023774 101463350189962023775; by json: 2 users; by orjson: 1 user of type float
set -eu
work=$(mktemp -d); trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install -q orjson==3.13.0
"$work/venv/bin/python" - <<'PY'
import json
import orjson
ids = ["101463350189962023774", "101463350189962023775"]
lines = [f'{{"user_id": {one}}}' for one in ids]
exact = {json.loads(line)["user_id"] for line in lines}
fast = {orjson.loads(line)["user_id"] for line in lines}
kinds = {type(one).__name__ for one in fast}
print(f"two ids: {' '.join(ids)}; by json: {len(exact)} users; by orjson: {len(fast)} user of type {', '.join(kinds)}")
assert (len(exact), len(fast), kinds) == (2, 1, {"float"}), "they are read exactly by now"
PY
