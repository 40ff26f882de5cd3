"""A workspace with a small table and a store of synthetic vectors, for commands that need no encoder."""

from pathlib import Path

from loid_infer.data.corpora import digests_of
from loid_infer.data.reviews import open_table
from loid_infer.encoders.folder import EncoderFolder
from loid_infer.encoders.spec import fingerprint
from loid_infer.settings import Workspace
from loid_infer.store.writer import StoreWriter
from loid_infer.types import SILENT
from loid_infer.verbs.tables import ingest
from tests.conftest import make_spec
from tests.heads.domains import noisy_ratings

SPEC = make_spec(
    weights="made up",
    n_layers=1,
    n_heads=1,
    hidden_dim=16,
    feed_forward_dim=16,
    tokenizer="none",
    max_tokens=8,
    precision="fake",
)
ENCODER = EncoderFolder("made-up", Path("nowhere"), SPEC, fingerprint(SPEC))


def make_domain(workspace: Workspace, domain: str, seed: int = 0) -> None:
    """Ingest a table of noisy ratings and store vectors of its texts."""
    data, vectors = noisy_ratings(seed)
    source = workspace.root / f"{domain}.csv"
    source.parent.mkdir(parents=True, exist_ok=True)
    texts = [f"{domain} says {row}" for row in range(data.n)]
    lines = [
        f"{data.user_ids[user]},{domain}-{data.item_ids[item]},{rating},{text},{row}"
        for row, (user, item, rating, text) in enumerate(zip(data.users, data.items, data.ratings, texts, strict=True))
    ]
    source.write_text("user_id,item_id,rating,text,timestamp\n" + "\n".join(lines) + "\n")
    ingest([source], domain, workspace=workspace)
    digests = digests_of(texts)
    with StoreWriter(workspace.store(ENCODER.fingerprint), SPEC, ENCODER.fingerprint) as store:
        store.append((digests, vectors))


def interactions(workspace: Workspace, domain: str):
    return open_table(workspace.table(domain), domain).interactions(SILENT)
