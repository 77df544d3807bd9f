"""Quantised weights: numbers packed into fewer bits, beside the scales that give them back.

Each tool has names of its own for the packed tensor and for what stands beside it. A scheme is told by
those names; then every packed tensor is taken for the `weight` that it stands for, in the shape that it has
unpacked, so that a model is recognised whatever tool has quantised it.

Names as they are written by bitsandbytes 0.50, AutoAWQ 0.2.9 (`WQLinear_GEMM`), AutoGPTQ,
compressed-tensors 0.20, transformers 5.23 (`integrations/finegrained_fp8.py`, `mxfp4.py`), hqq 0.2.8,
optimum-quanto 0.2.7, and in the documents of mlx (`nn.QuantizedLinear`), ModelOpt, ExLlama and AQLM.
"""

from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

from dovetail.explain.detect import Explanation
from dovetail.explain.documents import Documents
from dovetail.explain.name_groups import Group, Inventory, joined
from dovetail.report import Finding, PartReport, Quantisation, counted
from dovetail.store.store import Entry

Shape = tuple[int, ...]


class Unpacked(NamedTuple):
    """The bits of a number and the shape of the weight; None where a header does not tell."""

    bits: int | None
    shape: Shape | None


# Of the shapes of the packed tensor (`packed`) and its marks, and the bits that a config says.
Unpack = Callable[[Mapping[str, Shape], int | None], Unpacked]


def _four_bits(shapes: Mapping[str, Shape], bits: int | None) -> Unpacked:
    """In one row, or in blocks: the header does not tell the shape."""
    return Unpacked(4, None)


def _one_each(shapes: Mapping[str, Shape], bits: int | None) -> Unpacked:
    return Unpacked(8, shapes.get("packed"))


def _two_a_byte(shapes: Mapping[str, Shape], bits: int | None) -> Unpacked:
    *front, last = shapes["packed"]
    return Unpacked(4, (*front, 2 * last))


def _in_words(shapes: Mapping[str, Shape], bits: int | None) -> Unpacked:
    """Each row in words of 32 bits; how many numbers are in a word, a config says."""
    *front, words = shapes["packed"]
    return Unpacked(bits, (*front, words * 32 // bits) if bits else None)


def _turned(shapes: Mapping[str, Shape], bits: int | None) -> Unpacked:
    """The turned weight in words of 32 bits: GPTQ packs its rows, AWQ its columns, both columns of zeros."""
    (rows, columns), (_, zeros), (_, scales) = shapes["packed"], shapes["qzeros"], shapes["scales"]
    bits = 32 * zeros // scales
    return Unpacked(bits, (columns, rows * 32 // bits) if columns == scales else (scales, rows))


def _unknown(shapes: Mapping[str, Shape], bits: int | None) -> Unpacked:
    return Unpacked(bits, None)


class Scheme(NamedTuple):
    """How one tool stores a weight; names are a stem and a suffix.

    `packed` is the suffix of the tensor that stands for the one of the suffix `plain`. A stem that has all of
    `marks` is of this scheme; `more` may be there too. `by` and `form` are what people call it.
    """

    by: str
    form: str
    packed: str
    plain: str
    marks: tuple[str, ...]
    more: tuple[str, ...] = ()
    unpack: Unpack = _unknown
    step: str = ""


# `quant_method` of a config, in the words of its makers.
METHODS = {
    "aqlm": "AQLM",
    "awq": "AWQ",
    "bitnet": "BitNet",
    "bitsandbytes": "bitsandbytes",
    "compressed-tensors": "compressed-tensors",
    "eetq": "EETQ",
    "exl2": "ExLlamaV2",
    "exl3": "ExLlamaV3",
    "fbgemm_fp8": "FBGEMM",
    "gptq": "GPTQ",
    "hqq": "HQQ",
    "modelopt": "ModelOpt",
    "quanto": "quanto",
}
_WEIGHT = ("weight", "weight")
_STATE = ".quant_state.bitsandbytes__"
_NESTED = (".nested_absmax", ".nested_quant_map", ".quant_map")
_BESIDE = ("input_scale", "input_zero_point", "input_global_scale", "output_scale", "output_zero_point")
_CACHE = ("k_scale", "v_scale", "q_scale")
_HQQ = (
    "nbits",
    "group_size",
    "shape",
    "axis",
    "packing",
    "unpack_view_dtype",
    "view_as_float",
    "quant_scale",
    "quant_zero",
    "compute_dtype",
    "offload_meta",
    "encoded_state_dict",
    "stores_quant_config",
    "channel_wise",
    "optimize",
    "round_zero",
)
_DEQUANTISE = (
    ", or save the state_dict() of transformers' `from_pretrained(...).dequantize()` with torch.save"
)

# The first that fits is it: what has more marks stands before what has some of them.
SCHEMES = (
    Scheme("bitsandbytes", "NF4", "", "", (".absmax", f"{_STATE}nf4"), _NESTED, _four_bits, _DEQUANTISE),
    Scheme("bitsandbytes", "FP4", "", "", (".absmax", f"{_STATE}fp4"), _NESTED, _four_bits, _DEQUANTISE),
    Scheme("bitsandbytes", "", *_WEIGHT, ("SCB",), ("weight_format",), _one_each, _DEQUANTISE),
    Scheme("GPTQ", "", "qweight", "weight", ("qzeros", "scales", "g_idx"), (), _turned),
    Scheme("AWQ", "", "qweight", "weight", ("qzeros", "scales"), (), _turned),
    Scheme(
        "compressed-tensors",
        "NVFP4",
        "weight_packed",
        "weight",
        ("weight_scale", "weight_global_scale"),
        _BESIDE,
        _two_a_byte,
    ),
    Scheme(
        "compressed-tensors",
        "",
        "weight_packed",
        "weight",
        ("weight_scale",),
        ("weight_shape", "weight_zero_point", "weight_g_idx", *_BESIDE),
        _in_words,
    ),
    Scheme(
        "ModelOpt",
        "NVFP4",
        *_WEIGHT,
        ("weight_scale", "weight_scale_2"),
        (*_BESIDE, *_CACHE, "pre_quant_scale"),
        _two_a_byte,
    ),
    Scheme(
        "",  # compressed-tensors, ModelOpt or FBGEMM: a config says
        "",
        *_WEIGHT,
        ("weight_scale",),
        ("weight_zero_point", "weight_g_idx", "input_scale_ub", *_BESIDE, *_CACHE),
        _one_each,
    ),
    Scheme("", "FP8, a scale for each block", "", "", ("_scale_inv",), ("_activation_scale",), _one_each),
    Scheme("", "MXFP4", "_blocks", "", ("_scales",), (), _four_bits),
    Scheme("MLX", "", *_WEIGHT, ("scales", "biases"), (), _in_words),
    Scheme("HQQ", "", "W_q", "weight", ("scale", "zero"), _HQQ),
    Scheme("quanto", "", "weight._data", "weight", ("weight._scale",), ("weight._shift", *_BESIDE)),
    Scheme("quanto", "", "weight._data._data", "weight", ("weight._scale",), ("weight._shift", *_BESIDE)),
    Scheme("AQLM", "", "codes", "weight", ("codebooks", "scales")),
    Scheme("ExLlamaV2", "", "q_weight", "weight", ("q_scale", "q_groups"), ("q_scale_max", "q_perm")),
    Scheme("ExLlamaV3", "", "trellis", "weight", ("suh", "svh"), ("mcg", "mul1", "su", "sv")),
    Scheme("EETQ", "", *_WEIGHT, ("weight_scales",), (), _one_each),
)
_MOST_BITS = 16
_ASIDE = "scales of quantised weights"
_BITS = ("bits", "w_bit", "nbits", "num_bits")
_ROOTS = tuple(
    f"{root}{section}"
    for root in ("", "text_config.", "llm_config.")
    for section in (
        "quantization_config",
        "quantization",
        "quantization_config.config_groups.group_0.weights",
    )
)


class Packing(NamedTuple):
    """What is quantised in a file: each packed tensor with those beside it, its bits if they are known.

    `elements` is how many numbers each holds, 0 where nothing tells. `rows` are all tensors of the rows in
    which some are packed.
    `lacking` are packed tensors without all that gives their numbers back.
    """

    quantisation: Quantisation
    step: str
    beside: dict[str, tuple[str, ...]]
    bits: dict[str, int | None]
    elements: dict[str, int]
    lacking: list[str]
    rows: set[str]

    def findings(self, title: str | None) -> Iterator[Finding]:
        """What to say first; `title` is what the model is called, None where it is not known."""
        names = tuple(self.beside)
        yield Finding(
            code="quantised",
            severity="error",
            message=f"this is {f'{title}, ' if title else ''}{self.quantisation.text}: "
            f"{counted(len(names), 'weight')} packed, first `{names[0]}`",
            tensors=(*names, *(name for beside in self.beside.values() for name in beside)),
            hint=f"dovetail does not unpack it: take the checkpoint that it was made from{self.step}",
        )
        if self.lacking:
            yield Finding(
                code="missing",
                severity="error",
                message=f"{counted(len(self.lacking), 'packed weight')} without all that gives the numbers "
                f"back, first `{self.lacking[0]}`",
                tensors=tuple(self.lacking),
                hint="the file is damaged, or a shard is lost; fetch it again",
            )

    def is_about_packing(self, finding: Finding) -> bool:
        """Whether a finding only says that packed tensors have another dtype than others."""
        return finding.code == "dtype-mix" and self.rows.issuperset(finding.tensors)

    def more_elements(self, stored: Mapping[str, Entry]) -> int:
        """How many parameters there are more than stored elements, those of scales left out."""
        return sum(self.elements[name] - stored[name].elements for name in self.elements) - sum(
            stored[name].elements for beside in self.beside.values() for name in beside
        )

    def as_stored(
        self, parts: Mapping[str, PartReport], one: Explanation, stored: Mapping[str, Entry]
    ) -> dict[str, PartReport]:
        """The parts with the bytes that they take packed, scales included, and all their parameters."""
        found = {}
        for role, part in parts.items():
            match = one.roles.get(role)
            packed = (
                [name for row in match.rows for name in row.tensors.values() if name in self.beside]
                if match
                else []
            )
            counted_as = [one.inventory.entries[name] for name in packed]
            found[role] = part._replace(
                parameters=part.parameters
                + sum(
                    self.elements[name] - entry.elements
                    for name, entry in zip(packed, counted_as, strict=True)
                ),
                bytes=part.bytes
                - sum(entry.bytes for entry in counted_as)
                + sum(stored[each].bytes for name in packed for each in (name, *self.beside[name])),
            )
        return found


def unpacked(inventory: Inventory, documents: Documents) -> tuple[Inventory, Packing | None]:
    """The inventory with every packed tensor as the one that it stands for, and what was packed."""
    found = [*_stems(inventory.groups)]
    if not found:
        return inventory, None
    said = documents.find(_BITS, _ROOTS)
    groups, entries = dict(inventory.groups), dict(inventory.entries)
    packing = Packing(_named(found[0][1], documents), found[0][1].step, {}, {}, {}, [], set())
    for stem, scheme in found:
        packed = groups.pop(stem + scheme.packed)
        needed = [groups[stem + mark].by_index for mark in scheme.marks]
        more = [groups[stem + one].by_index for one in scheme.more if stem + one in groups]
        for index, name in packed.by_index.items():
            if index not in needed[0]:
                continue  # a layer that was left as it is
            names = {mark: by[index] for mark, by in zip(scheme.marks, needed, strict=True) if index in by}
            if len(names) < len(needed):
                packing.lacking.append(name)
            packing.beside[name] = (*names.values(), *(by[index] for by in more if index in by))
            shapes = {key: entries[one].shape for key, one in {"packed": name, **names}.items()}
            packing.bits[name], shape = _unpack(scheme, shapes, said.value if said else None)
            stored, bits = entries[name], packing.bits[name]
            entries[name] = stored._replace(shape=shape)
            packing.elements[name] = entries[name].elements or (stored.bytes * 8 // bits if bits else 0)
        plain = stem + scheme.plain
        groups[plain] = joined(groups[plain], packed) if plain in groups else packed
        packing.rows.update(groups[plain].names)
    if not packing.beside:
        return inventory, None
    aside = [name for beside in packing.beside.values() for name in beside]
    rest = inventory._replace(groups=groups, entries=entries).restricted_to(
        set(inventory.names()) - set(aside)
    )
    widths = tuple(sorted({one for one in packing.bits.values() if one}))
    quantisation = packing.quantisation._replace(bits=widths, weights=len(packing.beside))
    return (
        rest._replace(set_aside={**inventory.set_aside, _ASIDE: aside}),
        packing._replace(quantisation=quantisation),
    )


def _named(scheme: Scheme, documents: Documents) -> Quantisation:
    """By whom and in what form: the words of the scheme; who wrote it, a config may know better."""
    method = documents.find(("quant_method",), _ROOTS)
    return Quantisation(METHODS.get(str(method.value), scheme.by) if method else scheme.by, scheme.form)


def _stems(groups: Mapping[str, Group]) -> Iterator[tuple[str, Scheme]]:
    """Where a scheme has all that it needs. No tensor is packed twice, and none is a mark and packed."""
    taken: set[str] = set()
    for scheme in SCHEMES:
        mark = scheme.marks[0]
        for key in groups:
            stem = key[: -len(mark)] if key.endswith(mark) else None
            if stem is None or not stem:
                continue
            needed = {stem + suffix for suffix in (scheme.packed, *scheme.marks)}
            if needed <= groups.keys() and not needed & taken:
                taken |= {*needed, *(stem + suffix for suffix in scheme.more)}
                yield stem, scheme


def _unpack(scheme: Scheme, shapes: Mapping[str, Shape | None], said: Any) -> Unpacked:
    """The bits and the shape of one weight; nothing of what does not add up."""
    bits = said if isinstance(said, int) and 0 < said <= _MOST_BITS else None
    known = {key: shape for key, shape in shapes.items() if shape is not None}
    try:
        found, shape = scheme.unpack(known, bits)
    except (KeyError, ValueError, ZeroDivisionError):  # names only, or shapes that nobody writes
        return Unpacked(bits, None)
    if found is None or not 0 < found <= _MOST_BITS:
        return Unpacked(bits, None)
    return Unpacked(found, None if shape is None or 0 in shape else shape)
