#!/bin/sh
# The whole flow on synthetic reviews, in this folder: tables, vectors, a head, scores. Called by `make demo`.
set -eu
LOID="${BIN:-.venv/bin}/loid-infer"
run() { printf '\n$ loid-infer %s\n' "$*"; "$LOID" "$@"; }

run sample --domain video_games --n-reviews 5000
run encode --domain video_games
run fit --domain video_games
mkdir -p reports
cat > reports/pairs.csv <<'PAIRS'
user_id,item_id
synthetic-u00000,synthetic-i00001
synthetic-u00000,synthetic-i00002
synthetic-u00001,synthetic-i00002
somebody-new,synthetic-i00001
synthetic-u00000,something-new
somebody-new,something-new
PAIRS
run score reports/pairs.csv --domain video_games --out reports/scores.csv
printf '\n$ cat reports/scores.csv\n'
cat reports/scores.csv
cat <<'NEXT'

These reviews are synthetic. What to try next:
  .venv/bin/loid-infer encode --domain video_games          again: nothing is encoded twice
  .venv/bin/loid-infer cache info                           what is stored, for which encoder
  .venv/bin/loid-infer ingest REVIEWS.json.gz -d my_domain  your own reviews: Amazon files, JSON lines, CSV, parquet
  .venv/bin/loid-infer encode -d my_domain && .venv/bin/loid-infer fit -d my_domain
  .venv/bin/loid-infer score PAIRS.parquet -d my_domain
  .venv/bin/loid-infer doctor                               which runtime this machine takes, and why
NEXT
