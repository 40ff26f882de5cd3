#!/bin/sh
# pyarrow reads CSV in blocks. With newlines_in_values, a CR LF within quotes whose two bytes lie in different blocks comes
# back as CR alone, without an error. By default blocks have 1 MiB, so of a file of reviews with Windows line ends in their
# texts a few change.
#
# Seen with pyarrow 26.0.1:
#   block of 1 MiB: 20000 rows, of which changed: 1
#   first difference: 'CR LF' read as 'CR'
set -eu
work=$(mktemp -d); trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install -q pyarrow==26.0.1
"$work/venv/bin/python" - <<'PY'
import csv, io
import pyarrow.csv
texts = [f"{'x' * (k % 97)}\r\n{'y' * 20}" for k in range(20_000)]
file = io.StringIO(newline="")
csv.writer(file).writerows([["text", "id"], *((text, k) for k, text in enumerate(texts))])
content = file.getvalue()
# Lengthen the first text, so that the block ends between CR and LF.
block = 1 << 20
at = content.rindex("\r\ny", 0, block)
texts[0] = "x" * (block - 1 - at) + texts[0]
file = io.StringIO(newline="")
csv.writer(file).writerows([["text", "id"], *((text, k) for k, text in enumerate(texts))])
assert list(csv.reader(io.StringIO(file.getvalue(), newline="")))[1:] == [[text, str(k)] for k, text in enumerate(texts)]
options = pyarrow.csv.ParseOptions(newlines_in_values=True)
read = pyarrow.csv.read_csv(io.BytesIO(file.getvalue().encode()), parse_options=options).column("text").to_pylist()
changed = [(ours, theirs) for ours, theirs in zip(texts, read, strict=True) if ours != theirs]
print(f"block of 1 MiB: {len(read)} rows, of which changed: {len(changed)}")
assert len(changed) == 1, "it is read rightly by now"
assert changed[0][0].replace("\r\n", "\r") == changed[0][1]
print("first difference: 'CR LF' read as 'CR'")
PY
