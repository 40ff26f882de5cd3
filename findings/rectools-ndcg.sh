#!/bin/sh
# RecTools 0.19.0: NDCG(k=10) of a list whose first item is the only relevant one is 0.22, not 1. Its ideal has k relevant
# items whatever the user has, unless divide_by_achievable=True; so in leave-one-out the best possible model scores 0.22,
# and figures are not comparable with papers'. bench/rivals asks for the other one.
# Seen: 0.2201 by default, 1.0 with divide_by_achievable.
set -eu
work=$(mktemp -d); trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install -q --disable-pip-version-check rectools==0.19.0 numpy==1.26.4 pandas==2.3.3
"$work/venv/bin/python" - <<'PY' 2>/dev/null
import pandas as pd
from rectools import Columns
from rectools.metrics import NDCG

best = pd.DataFrame({Columns.User: ["u"] * 10, Columns.Item: list("abcdefghij"), Columns.Rank: range(1, 11)})
target = pd.DataFrame({Columns.User: ["u"], Columns.Item: ["a"]})
seen = [round(metric.calc(best, target), 4) for metric in (NDCG(k=10), NDCG(k=10, divide_by_achievable=True))]
print(seen)
assert seen == [0.2201, 1.0], "the behavior changed"
PY
