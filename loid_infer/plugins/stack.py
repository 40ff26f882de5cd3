"""Plugins on a base: which ones, in which order, and the weights they make together.

What `export` writes and what a new plugin is trained on. Knows no file of a base and no model.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from loid_infer.encoders.manifest import FoldedPlugin
from loid_infer.encoders.spec import weights_digest
from loid_infer.errors import BadSetting
from loid_infer.plugins.delta import fold
from loid_infer.plugins.folder import PluginFolder, open_chain
from loid_infer.records import narrowed
from loid_infer.settings import Workspace
from loid_infer.types import Array


@dataclass(frozen=True, slots=True, eq=False)
class Stack:
    """A base with plugins folded into it, once, in float32."""

    names: tuple[str, ...]  # that were asked for
    chain: tuple[PluginFolder, ...]  # these and all they rest on, in digest order
    tensors: dict[str, Array]
    base_digest: str  # of the plain base
    tokenizer: str  # digest of the base's
    digest: str  # of `tensors`

    def described(self) -> tuple[FoldedPlugin, ...]:
        """The chain as the manifest of an encoder names it."""
        return tuple(narrowed(plugin.manifest, FoldedPlugin) for plugin in self.chain)


def stack_plugins(
    workspace: Workspace,
    names: Sequence[str],
    base_name: str,
    tokenizer: str,
    tensors: Mapping[str, Array],
    uses: Callable[[str], bool],
) -> Stack:
    """The plugins `names`, with all that they rest on, folded into a base's float32 `tensors`.

    Args:
        tokenizer: the digest of the base's.
        uses: of a tensor's name, whether a vector depends on it.

    Raises:
        BadSetting: a plugin was trained with another tokenizer.
        BadName, BadSetting, BadArtifact: see `open_chain` and `fold`.
    """
    digest = weights_digest(tensors, uses)
    chain = open_chain(workspace, names, base_name, digest)
    for plugin in chain:
        if plugin.manifest.tokenizer != tokenizer:
            raise BadSetting(
                f"plugin {plugin.name!r} was trained with another tokenizer",
                where=str(plugin.path),
                expected=plugin.manifest.tokenizer[:16],
                got=f"{base_name} with {tokenizer[:16]}",
                fix="Give --base the base with that tokenizer.",
            )
    folded = fold(tensors, [plugin.delta() for plugin in chain])
    return Stack(tuple(names), chain, folded, digest, tokenizer, weights_digest(folded, uses) if chain else digest)
