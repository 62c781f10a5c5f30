"""The names of a transformer's layers in LoRA files: those of diffusers, and those of the model's own code.

Sources of the other names: the classes of black-forest-labs/flux, XLabs-AI/x-flux and Wan-Video/Wan2.1, and
OneTrainer's convert_flux_lora.py (numbered parts of fused layers).
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from services.weights.loras.adaptation import Architecture, Target

FLAT_PREFIXES = ("lora_unet_", "lora_transformer_", "lora_dit_", "lycoris_")
"""Beginnings of keys whose dots are replaced by underscores."""
WRAPPERS = re.compile(r"^(?:(?:base_model|model|module|_orig_mod|transformer|diffusion_model|unet|dit|pipe)\.)*")
"""Names of the modules that may stand around the transformer, at the beginning of a key."""


@dataclass(frozen=True, slots=True)
class Part:
    """A module of the transformer, and its place in the module of the file."""

    module: str
    """Name of the module, or of a parameter that belongs to no module, as in diffusers."""
    first: int
    """Its first output in the module of the file."""
    outputs: int
    """Number of its outputs; 0 if the checkpoint lacks it."""


@dataclass(frozen=True, slots=True)
class Module:
    """A module of a LoRA file. It is one or several modules of the transformer, e.g. a fused query, key and value."""

    parts: tuple[Part, ...]
    halves_swapped: bool = False
    """Whether the two halves of its outputs have the other order in diffusers (shift and scale)."""
    lacking: str = ""
    """What it belongs to, if this checkpoint does not have it."""

    @property
    def outputs(self) -> int:
        return sum(part.outputs for part in self.parts)


@dataclass(frozen=True, slots=True)
class Rule:
    """Another name of modules; `{}` stands for the number of the block."""

    name: str
    modules: tuple[str, ...]
    halves_swapped: bool = False
    optional: str = ""
    """What the modules belong to, if only some checkpoints have them."""


def _list_double_blocks() -> Iterator[Rule]:
    for stream, index, query, output, feed, norm in (
        ("img", 1, "to_{}", "to_out.0", "ff", "norm1"),
        ("txt", 2, "add_{}_proj", "to_add_out", "ff_context", "norm1_context"),
    ):
        native, block = f"double_blocks.{{}}.{stream}", "transformer_blocks.{}"
        fused = tuple(f"{block}.attn.{query.format(letter)}" for letter in "qkv")
        yield Rule(f"{native}_attn.qkv", fused)
        yield from (Rule(f"{native}_attn.qkv.{number}", (name,)) for number, name in enumerate(fused))
        yield Rule(f"{native}_attn.proj", (f"{block}.attn.{output}",))
        yield Rule(f"{native}_mlp.0", (f"{block}.{feed}.net.0.proj",))
        yield Rule(f"{native}_mlp.2", (f"{block}.{feed}.net.2",))
        yield Rule(f"{native}_mod.lin", (f"{block}.{norm}.linear",))
        added = "added_" if stream == "txt" else ""
        yield Rule(f"{native}_attn.norm.query_norm", (f"{block}.attn.norm_{added}q",))
        yield Rule(f"{native}_attn.norm.key_norm", (f"{block}.attn.norm_{added}k",))
        yield Rule(f"double_blocks.{{}}.processor.qkv_lora{index}", fused)
        yield Rule(f"double_blocks.{{}}.processor.proj_lora{index}", (f"{block}.attn.{output}",))


def _list_single_blocks() -> Iterator[Rule]:
    native, block = "single_blocks.{}", "single_transformer_blocks.{}"
    fused = tuple(f"{block}.attn.to_{letter}" for letter in "qkv")
    yield Rule(f"{native}.linear1", (*fused, f"{block}.proj_mlp"))
    yield from (
        Rule(f"{native}.linear1.{number}", (name,)) for number, name in enumerate((*fused, f"{block}.proj_mlp"))
    )
    yield Rule(f"{native}.linear2", (f"{block}.proj_out",))
    yield Rule(f"{native}.modulation.lin", (f"{block}.norm.linear",))
    yield Rule(f"{native}.norm.query_norm", (f"{block}.attn.norm_q",))
    yield Rule(f"{native}.norm.key_norm", (f"{block}.attn.norm_k",))
    yield Rule(f"{native}.processor.qkv_lora", fused)
    yield Rule(f"{native}.processor.proj_lora", (f"{block}.proj_out",))


def _list_embedders() -> Iterator[Rule]:
    for native, name, optional in (
        ("time_in", "timestep_embedder", ""),
        ("vector_in", "text_embedder", ""),
        ("guidance_in", "guidance_embedder", "guidance embedding"),
    ):
        for native_layer, layer in (("in_layer", "linear_1"), ("out_layer", "linear_2")):
            yield Rule(f"{native}.{native_layer}", (f"time_text_embed.{name}.{layer}",), optional=optional)


FLUX = (
    *_list_double_blocks(),
    *_list_single_blocks(),
    *_list_embedders(),
    Rule("img_in", ("x_embedder",)),
    Rule("img_in.proj", ("x_embedder",)),
    Rule("txt_in", ("context_embedder",)),
    Rule("final_layer.linear", ("proj_out",)),
    Rule("final_layer.adaLN_modulation.1", ("norm_out.linear",), halves_swapped=True),
)


def _list_wan_blocks() -> Iterator[Rule]:
    block = "blocks.{}"
    for native, name in (("self_attn", "attn1"), ("cross_attn", "attn2")):
        for letter, layer in (("q", "to_q"), ("k", "to_k"), ("v", "to_v"), ("o", "to_out.0")):
            yield Rule(f"{block}.{native}.{letter}", (f"{block}.{name}.{layer}",))
        for letter in "qk":
            yield Rule(f"{block}.{native}.norm_{letter}", (f"{block}.{name}.norm_{letter}",))
    image = "image attention"
    yield Rule(f"{block}.cross_attn.k_img", (f"{block}.attn2.add_k_proj",), optional=image)
    yield Rule(f"{block}.cross_attn.v_img", (f"{block}.attn2.add_v_proj",), optional=image)
    yield Rule(f"{block}.cross_attn.norm_k_img", (f"{block}.attn2.norm_added_k",), optional=image)
    yield Rule(f"{block}.ffn.0", (f"{block}.ffn.net.0.proj",))
    yield Rule(f"{block}.ffn.2", (f"{block}.ffn.net.2",))
    yield Rule(f"{block}.norm3", (f"{block}.norm2",))
    yield Rule(f"{block}.modulation", (f"{block}.scale_shift_table",))


def _list_wan_rest() -> Iterator[Rule]:
    condition = "condition_embedder"
    for number, layer in ((0, "linear_1"), (2, "linear_2")):
        yield Rule(f"time_embedding.{number}", (f"{condition}.time_embedder.{layer}",))
        yield Rule(f"text_embedding.{number}", (f"{condition}.text_embedder.{layer}",))
    for number, layer in ((0, "norm1"), (1, "ff.net.0.proj"), (3, "ff.net.2"), (4, "norm2")):
        name = f"{condition}.image_embedder.{layer}"
        yield Rule(f"img_emb.proj.{number}", (name,), optional="image embedding")
    yield Rule("time_projection.1", (f"{condition}.time_proj",))
    yield Rule("head.head", ("proj_out",))
    yield Rule("head.modulation", ("scale_shift_table",))


RULES: Mapping[Architecture, tuple[Rule, ...]] = {
    "flux": FLUX,
    "wan": (*_list_wan_blocks(), *_list_wan_rest()),
    "qwen-image": (),  # its own code has diffusers' names
}


class Names:
    """The modules of a transformer by all names that LoRA files have for them."""

    def __init__(self, target: Target) -> None:
        self._target = target
        self._dotted = {module: self._place((module,)) for module in _list_modules(target)}
        self.blocks = 1 + max(
            (int(found) for name in self._dotted for found in re.findall(r"\.(\d+)\.", name)), default=0
        )
        for rule in RULES[target.architecture]:
            self._add(rule)
        shorter = {name.removesuffix(".0"): place for name, place in self._dotted.items() if name.endswith(".to_out.0")}
        self._dotted.update(shorter)
        self._flat = {name.replace(".", "_"): place for name, place in self._dotted.items()}

    def find(self, stem: str) -> tuple[str, Module] | None:
        """Return the prefix of a key and its module; None if the transformer has no such module.

        Args:
            stem: a key of a LoRA file without the ending that says what the tensor is.
        """
        for prefix in FLAT_PREFIXES:
            if stem.startswith(prefix) and (module := self._flat.get(stem[len(prefix) :].replace(".", "_"))):
                return prefix, module
        name = WRAPPERS.sub("", stem)
        module = self._dotted.get(name)
        return None if module is None else (stem.removesuffix(name), module)

    def _add(self, rule: Rule) -> None:
        numbers = range(self.blocks) if "{}" in rule.name else (0,)
        for number in numbers:
            modules = tuple(name.format(number) for name in rule.modules)
            if all(name in self._dotted for name in modules):
                self._dotted[rule.name.format(number)] = self._place(modules, rule.halves_swapped)
            elif rule.optional:
                lacking = Module(tuple(Part(name, 0, 0) for name in modules), lacking=rule.optional)
                for name in (rule.name.format(number), *modules):
                    self._dotted[name] = lacking

    def _place(self, modules: tuple[str, ...], halves_swapped: bool = False) -> Module:
        parts, first = list[Part](), 0
        for name in modules:
            outputs = self._count_outputs(name)
            parts.append(Part(name, first, outputs))
            first += outputs
        return Module(tuple(parts), halves_swapped)

    def _count_outputs(self, module: str) -> int:
        if module in self._target.layers:
            return self._target.layers[module][1]
        shapes = self._target.parameters
        shape = shapes.get(f"{module}.weight", shapes.get(module, shapes.get(f"{module}.bias", ())))
        return shape[0] if shape else 1


def _list_modules(target: Target) -> Iterator[str]:
    """Yield the names of all modules that have parameters, and of parameters that are not a weight or a bias."""
    yield from target.layers
    for name in target.parameters:
        module, _, parameter = name.rpartition(".")
        yield module if parameter in ("weight", "bias") else name
