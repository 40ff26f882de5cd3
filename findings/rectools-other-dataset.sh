#!/bin/sh
# RecTools 0.19.0: a model that is fitted on one Dataset and asked with another one answers with the wrong items, without a
# word, if the two number their ids differently. A Dataset numbers ids in the order of its rows, so one more interaction in
# front is enough. Give `recommend` a Dataset whose rows begin with those of the fit. Heads of loid-infer keep their own ids.
# Seen, for a popularity model on interactions of which 3 are with a, 2 with b and 1 with c:
#   the Dataset of the fit                 a, b, c with scores 3, 2, 1
#   the same rows after one (user, c)      c, a, b with scores 3, 2, 1
set -eu
work=$(mktemp -d); trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install -q --disable-pip-version-check rectools==0.19.0 numpy==1.26.4 pandas==2.3.3
"$work/venv/bin/python" - <<'PY' 2>/dev/null
import pandas as pd
from rectools import Columns
from rectools.dataset import Dataset
from rectools.models import PopularModel


def dataset(rows):
    frame = pd.DataFrame(rows, columns=[Columns.User, Columns.Item])
    times = pd.date_range("2020", periods=len(rows), freq="s")
    return Dataset.construct(frame.assign(**{Columns.Weight: 1.0, Columns.Datetime: times}))


rows = [("p", "a"), ("q", "a"), ("r", "a"), ("s", "b"), ("p", "b"), ("p", "c")]
model = PopularModel("n_interactions").fit(dataset(rows))
seen = []
for asked in (rows, [("s", "c"), *rows]):
    found = model.recommend(users=["s"], dataset=dataset(asked), k=3, filter_viewed=False)
    seen.append((found[Columns.Item].tolist(), found[Columns.Score].tolist()))
print(*seen, sep="\n")
assert seen == [(["a", "b", "c"], [3, 2, 1]), (["c", "a", "b"], [3, 2, 1])], "the behavior changed"
PY
