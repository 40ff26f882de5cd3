"""Manifests and records of earlier versions are read: with fields since removed, without fields since added."""

import json
from dataclasses import asdict

from loid_infer.artifact import read_manifest
from loid_infer.data.canonical import TableFacts
from loid_infer.encoders.machine import Answer, recall
from loid_infer.encoders.manifest import EncoderManifest
from loid_infer.heads.manifest import HeadManifest
from loid_infer.pages.records import EncodeResult
from loid_infer.plugins.folder import PluginManifest
from loid_infer.records import decode
from tests.pages.records import encoder, encoding, head, plugin, write


def read(tmp_path, schema, manifest: dict, **options):
    write(tmp_path / "manifest.json", manifest)
    return read_manifest(tmp_path, schema, "fix it", **options)


def test_encoder_manifests_from_before_plugins_and_int8_are_read(tmp_path) -> None:
    manifest = encoder(removed_field=1)
    del manifest["plugins"], manifest["precision_reason"]
    decoded = read(tmp_path, EncoderManifest, manifest)
    assert (decoded.plugins, decoded.int8, decoded.card.max_tokens, decoded.parity.n_texts) == ((), None, 256, 64)
    assert decoded.parity.runtimes["torch"].cos_min == 0.9998


def test_plugin_manifests_without_a_tokenizer_are_read(tmp_path) -> None:
    decoded = read(tmp_path, PluginManifest, plugin("one", "1" * 64, removed_field=1))
    assert (decoded.tokenizer, decoded.device, decoded.rank, decoded.domains) == ("", "", 32, ("one",))


def test_head_manifests_without_a_device_are_read(tmp_path) -> None:
    manifest = head(removed_field=1)
    del manifest["device"]
    decoded = read(tmp_path, HeadManifest, manifest, form=2)
    assert (decoded.device, decoded.settings.k, decoded.rating_range) == ("", 5, (1.0, 5.0))


def test_encode_records_with_fields_since_removed_are_read() -> None:
    old = encoding(joined=["other"], n_shared_layers=2)
    decoded = decode(json.dumps(old), EncodeResult, "fix it", where="here", finite=True)
    assert asdict(decoded) == {**encoding(), "n_unknown": 0, "n_mostly_unknown": 0}


def test_table_metadata_with_only_required_fields_is_read() -> None:
    facts = {
        "format": 1,
        "digest": "d",
        "n_rows": 1,
        "n_users": 1,
        "n_items": 1,
        "n_empty_text": 0,
        "rating_range": [1, 5],
    }
    assert decode(json.dumps(facts), TableFacts, "fix it", where="here").rating_range == (1.0, 5.0)


def test_machine_measurements_of_earlier_versions_are_read(tmp_path) -> None:
    write(tmp_path / "m.json", {"a": {"n_streams": 2, "tokens_per_s": {"1": 10, "2": 20}}, "b": {"max_tokens": 4096}})
    assert recall("a", tmp_path / "m.json") == Answer(n_streams=2, tokens_per_s={"1": 10, "2": 20})
    assert recall("b", tmp_path / "m.json").max_tokens == 4096
