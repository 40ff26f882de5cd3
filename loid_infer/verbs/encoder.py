"""Which encoder a command means: one rule for `encode`, `fit`, `cache export` and all that take `--encoder`."""

from __future__ import annotations

from contextlib import AbstractContextManager

from loid_infer.data.splits import refuse_leak
from loid_infer.encoder import find_encoder
from loid_infer.encoders.folder import EncoderFolder
from loid_infer.errors import BadSetting
from loid_infer.graphs.making import PRECISIONS
from loid_infer.settings import DEFAULT_ENCODER, Workspace
from loid_infer.store.reader import view_of
from loid_infer.types import Digests, Progress, Split, Vectors
from loid_infer.verbs.export import export


def resolve(workspace: Workspace, encoder: str | None, domain: str | None) -> EncoderFolder:
    """The encoder of that name; without one, the domain's own if there is one, else `base`.

    Raises:
        BadArtifact: it is not there, or not what was exported.
        ParityError: it has no passing parity report.
    """
    return find_encoder(workspace, _name(workspace, encoder, domain))


def resolve_honest(workspace: Workspace, encoder: str | None, domain: str, split: Split) -> EncoderFolder:
    """What `resolve` gives, none of whose plugins saw the test reviews of `split` of `domain`.

    Raises:
        BadSetting: one did.
        BadArtifact, ParityError: see `resolve`.
    """
    found = resolve(workspace, encoder, domain)
    for plugin in found.plugins:
        refuse_leak(plugin.trained_on, domain, split, f"plugin {plugin.name!r} of encoder {found.name!r}")
    return found


def encode_command(encoder: str, domain: str) -> str:
    """What mends vectors that are missing."""
    return f"Run: loid-infer encode --domain {domain} --encoder {encoder}"


def encoded(
    workspace: Workspace, encoder: EncoderFolder, domain: str, digests: Digests
) -> AbstractContextManager[Vectors]:
    """The vectors `[n, d]`, as stored, of a domain's texts with `digests [n, 16]`; they stay in the store's file.

    Raises:
        NotEncoded, BadStore: some are not there, or damaged.
    """
    store, command = workspace.store(encoder.fingerprint), encode_command(encoder.name, domain)
    return view_of(store, encoder.spec, encoder.fingerprint, digests, command)


def resolve_or_export(
    workspace: Workspace, encoder: str | None, domain: str, precision: str | None, progress: Progress
) -> tuple[EncoderFolder, float]:
    """What `resolve` gives, and the seconds spent on exporting the base where it is used for the first time.

    Args:
        precision: what the caller insists on. The base has one export a precision: `base`, `base-fp32`, ...; that of
            int8 is calibrated on the domain it was first used for, and meant for that one only.

    Raises:
        BadSetting: the encoder has another precision, or is an int8 base for another domain.
        BadArtifact, ParityError, RuntimeMissing, NoSpace: see `resolve` and `export`.
    """
    if precision is not None and precision not in PRECISIONS:
        raise BadSetting(
            f"there is no precision {precision!r}",
            expected=" | ".join(PRECISIONS),
            mend="See `loid-infer encode --help`.",
        )
    name, seconds = _name(workspace, encoder, domain), 0.0
    insisted = precision is not None and precision != "auto"
    for_base = encoder is None and name == DEFAULT_ENCODER
    if for_base and insisted:
        name = f"{DEFAULT_ENCODER}-{precision}"
    bases = {
        DEFAULT_ENCODER: "auto",
        **{f"{DEFAULT_ENCODER}-{other}": other for other in PRECISIONS if other != "auto"},
    }
    if name in bases and not workspace.encoder(name).exists():
        wanted = precision if precision is not None and insisted else bases[name]
        on = domain if wanted == "int8" else None
        seconds = export(name, precision=wanted, calibrate_on=on, workspace=workspace, progress=progress).seconds
    found = resolve(workspace, name, domain)
    if insisted and found.spec.precision != precision:
        raise BadSetting(
            "precision is decided at export",
            where=f"encoder {name!r}",
            expected=found.spec.precision,
            got=f"--precision {precision}",
            mend=f"Leave --precision out, or `loid-infer export --name OTHER --precision {precision}`.",
        )
    int8 = found.manifest.int8 if found.manifest else None
    if for_base and int8 and int8.calibrated_on != domain:
        raise BadSetting(
            "the base's int8 encoder is calibrated on another domain",
            where=f"encoder {name!r}",
            expected=domain,
            got=int8.calibrated_on,
            mend=f"Run `loid-infer export --name {domain}-int8 --precision int8 --calibrate-on {domain}`, then "
            f"give --encoder {domain}-int8; or --encoder {name} to use it all the same.",
        )
    return found, seconds


def _name(workspace: Workspace, encoder: str | None, domain: str | None) -> str:
    if encoder is not None:
        return encoder
    if domain is not None and workspace.encoder(domain).exists():
        return domain
    return DEFAULT_ENCODER
