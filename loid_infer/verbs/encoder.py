"""Resolves the option `--encoder` of all commands to an export."""

from __future__ import annotations

import time
from contextlib import AbstractContextManager

from loid_infer.data.splits import refuse_leak
from loid_infer.encoder import export_bundled, find_encoder
from loid_infer.encoders.folder import EncoderFolder
from loid_infer.errors import BadSetting
from loid_infer.graphs.making import PRECISIONS
from loid_infer.settings import DEFAULT_ENCODER, Workspace, check_choice
from loid_infer.store.reader import view_of
from loid_infer.types import Digests, Progress, Split, Vectors
from loid_infer.verbs.export import export

# Exports of the bundled base, one per precision.
_BASES = {DEFAULT_ENCODER: "auto", **{f"{DEFAULT_ENCODER}-{other}": other for other in PRECISIONS[1:]}}


def resolve(workspace: Workspace, encoder: str | None, domain: str | None) -> EncoderFolder:
    """The encoder of that name; by default the domain's if there is one, else `base`.

    Raises:
        BadArtifact: it is missing or has been changed.
        ParityError: it has no passing parity report.
    """
    return find_encoder(workspace, _name(workspace, encoder, domain))


def resolve_without_leak(workspace: Workspace, encoder: str | None, domain: str, split: Split) -> EncoderFolder:
    """Like `resolve`; BadSetting if a plugin of the encoder was trained on test reviews of `split`."""
    folder = resolve(workspace, encoder, domain)
    for plugin in folder.plugins:
        refuse_leak(plugin.trained_on, domain, split, f"plugin {plugin.name!r} of encoder {folder.name!r}")
    return folder


def encode_command(encoder: str, domain: str) -> str:
    """The instruction for missing vectors."""
    return f"Run: loid-infer encode --domain {domain} --encoder {encoder}"


def domain_vectors(
    workspace: Workspace, encoder: EncoderFolder, domain: str, digests: Digests
) -> AbstractContextManager[Vectors]:
    """A view of the stored vectors `[n, d]` of a domain's texts with `digests [n, 16]`; see `view_of`."""
    store, command = workspace.store(encoder.fingerprint), encode_command(encoder.name, domain)
    return view_of(store, encoder.spec, encoder.fingerprint, digests, command)


def resolve_or_export(
    workspace: Workspace, encoder: str | None, domain: str, precision: str | None, progress: Progress
) -> tuple[EncoderFolder, float]:
    """Like `resolve`, for `encode`: the bundled base is exported first if necessary. Also returns the seconds of that.

    There is one export of the base per precision: `base`, `base-fp32`, ... The int8 one is calibrated on `domain`.

    Raises:
        BadSetting: an unknown precision, another one than the encoder's, or the int8 base of another domain.
        BadArtifact, ParityError, RuntimeMissing, NoSpace: see `resolve` and `export`.
    """
    if precision is not None:
        check_choice("precision", precision, PRECISIONS)
    name, seconds = _name(workspace, encoder, domain, precision), 0.0
    if name in _BASES and not workspace.encoder(name).exists():
        wanted, start = (precision or "auto") if name == DEFAULT_ENCODER else _BASES[name], time.perf_counter()
        if wanted == "int8":
            export(name, precision=wanted, calibrate_on=domain, workspace=workspace, progress=progress)
        else:
            export_bundled(workspace, name, wanted, progress)
        seconds = time.perf_counter() - start
    folder = find_encoder(workspace, name)
    if precision not in (None, "auto", folder.spec.precision):
        what, has = f"the encoder has another precision than {precision}", folder.spec.precision
        fix = f"Omit --precision, or run `loid-infer export --name OTHER --precision {precision}`."
        raise BadSetting(what, where=f"encoder {name!r}", got=has, fix=fix)
    int8 = folder.manifest.int8 if folder.manifest else None
    if encoder is None and name in _BASES and int8 and int8.calibrated_on != domain:
        what, got = "the int8 encoder of the base is calibrated on another domain", int8.calibrated_on
        fix = (
            f"Run `loid-infer export --name {domain}-int8 --precision int8 --calibrate-on {domain}`, then "
            f"give --encoder {domain}-int8; or give --encoder {name} to use it anyway."
        )
        raise BadSetting(what, where=f"encoder {name!r}", expected=domain, got=got, fix=fix)
    return folder, seconds


def _name(workspace: Workspace, encoder: str | None, domain: str | None, precision: str | None = None) -> str:
    if encoder is not None:
        return encoder
    if domain is not None and workspace.encoder(domain).exists():
        return domain
    return DEFAULT_ENCODER if precision in (None, "auto") else f"{DEFAULT_ENCODER}-{precision}"
