"""PyTorch Geometric's LightGCN on a split of ours, in a process of its own; see bench/peer.py.

python -m bench.rivals.rank_pyg TASK SPLIT.npz OUT.npz OPTIONS_JSON

TASK: `lightgcn` trains with early stopping on NDCG@10 of validation, `lightgcn_train` some epochs. SPLIT and OUT are
those of rank_rectools.py. Its negatives are ours: uniform, drawn again once if the user has the item.
"""

import json
import sys
import time

import numpy as np
import torch
from torch_geometric.nn.models import LightGCN

TOP = 20


def main() -> None:
    task, split, out, options = sys.argv[1], np.load(sys.argv[2]), sys.argv[3], json.loads(sys.argv[4])
    torch.manual_seed(0)
    train, valid, test = (split[part] for part in ("train", "valid", "test"))
    train = np.unique(train, axis=0)
    n_users, n_items = (1 + max(pairs[:, i].max() for pairs in (train, valid, test)) for i in (0, 1))
    edges = torch.from_numpy(train.T.copy())
    edges[1] += n_users
    edges = torch.cat([edges, edges.flip(0)], dim=1)
    if options["sparse"]:
        n, ones = n_users + n_items, torch.ones(edges.shape[1])
        edges = torch.sparse_coo_tensor(edges, ones, (n, n)).coalesce().to_sparse_csr()
    model = LightGCN(n_users + n_items, options["dim"], options["layers"])
    optimizer = torch.optim.Adam(model.parameters(), lr=options["learning_rate"])
    known = np.bincount(train[:, 1], minlength=n_items) > 0
    seen, scores, seconds, cpu, best = _seen(train), [], [], [], None
    for epoch in range(options["epochs"]):
        start, start_cpu = time.perf_counter(), time.process_time()
        _epoch(model, optimizer, edges, train, n_users, n_items, seen, epoch, options)
        seconds.append(time.perf_counter() - start)
        cpu.append(time.process_time() - start_cpu)
        if task == "lightgcn":
            scores.append(_ndcg(_top(model, edges, train, valid[:, 0], n_users, known), valid[:, 1]))
            print(f"epoch {epoch + 1}: {scores[-1]:.4f}", file=sys.stderr, flush=True)
            if scores[-1] == max(scores):
                best = {name: tensor.clone() for name, tensor in model.state_dict().items()}
            if len(scores) - 1 - int(np.argmax(scores)) >= options["patience"]:
                break
    figures: dict[str, object] = {
        "pairs_per_s": len(train) / np.median(seconds),
        "pairs_per_cpu_s": len(train) / np.median(cpu),
    }
    figures |= {"epochs": len(seconds), "valid ndcg@10": scores}
    items = np.zeros((0, TOP), np.int64)
    if task == "lightgcn":
        model.load_state_dict(best)
        items = _top(model, edges, np.concatenate([train, valid]), test[:, 0], n_users, known)
        found = items == test[:, 1:]
        places = np.where(found.any(axis=1), 1.0 + found.argmax(axis=1), np.inf)
        figures |= {"recall@10": float((places <= 10).mean()), "ndcg@10": _ndcg(items, test[:, 1])}
        figures |= {"mrr@20": float((1 / places).mean())}
    np.savez(out, items=items, figures=json.dumps(figures))


def _seen(pairs) -> np.ndarray:
    return np.sort(pairs[:, 0].astype(np.int64) << 32 | pairs[:, 1])


def _epoch(model, optimizer, edges, train, n_users, n_items, seen, epoch, options) -> None:
    rng = np.random.default_rng(epoch)
    order = rng.permutation(len(train))
    for start in range(0, len(order), options["batch"]):
        users, items = train[order[start : start + options["batch"]]].T
        negatives = rng.integers(n_items, size=len(users))
        keys = users.astype(np.int64) << 32 | negatives
        taken = seen[np.minimum(np.searchsorted(seen, keys), len(seen) - 1)] == keys
        negatives = np.where(taken, rng.integers(n_items, size=len(users)), negatives)
        pairs = np.stack([np.concatenate([users, users]), n_users + np.concatenate([items, negatives])])
        ranks = model(edges, torch.from_numpy(pairs))
        nodes = torch.from_numpy(pairs).flatten().unique()
        loss = model.recommendation_loss(*ranks.chunk(2), node_id=nodes, lambda_reg=options["penalty"])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


def _top(model, edges, seen, users, n_users, known) -> np.ndarray:
    """The best `TOP` items of users `[m]` without those of `seen [n, 2]`."""
    with torch.no_grad():
        vectors = model.get_embedding(edges)
        scores = vectors[torch.from_numpy(users)] @ vectors[n_users:].T
    scores[:, torch.from_numpy(~known)] = -torch.inf
    row = {user: i for i, user in enumerate(users.tolist())}
    own = [(row[user], item) for user, item in seen.tolist() if user in row]
    scores[tuple(torch.tensor(own).T)] = -torch.inf
    return scores.topk(TOP).indices.numpy()


def _ndcg(items, wanted) -> float:
    found = items[:, :10] == wanted[:, None]
    return float(np.where(found.any(axis=1), 1 / np.log2(2 + found.argmax(axis=1)), 0).mean())


if __name__ == "__main__":
    main()
