"""Folds plugins and their parents into the weights of a base, for `export` and for training on top of them."""

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
    """The weights of a base with folded plugins, float32."""

    names: tuple[str, ...]  # requested
    chain: tuple[PluginFolder, ...]  # with all parents, in digest order
    tensors: dict[str, Array]
    base_digest: str  # of the base without plugins
    tokenizer: str  # digest of the base's
    digest: str  # of `tensors`

    def described(self) -> tuple[FoldedPlugin, ...]:
        """The chain, for the manifest of an encoder."""
        return tuple(narrowed(plugin.manifest, FoldedPlugin) for plugin in self.chain)


def stack_plugins(
    workspace: Workspace,
    names: Sequence[str],
    base_name: str,
    tokenizer: str,
    tensors: Mapping[str, Array],
    uses: Callable[[str], bool],
) -> Stack:
    """Fold the plugins `names` and all their parents into the float32 `tensors` of a base.

    Args:
        tokenizer: digest of the tokenizer of the base.
        uses: whether vectors depend on the tensor of this name.

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
