"""GeoMFormer: ablations, counts, configuration, both forms against a dense reference, heads, dropout."""

from __future__ import annotations

import math
from typing import get_args

import numpy as np
import pytest
import torch
from ase import Atoms
from torch import Tensor
from torch.nn import functional

from ase_geomol.errors import ConfigError
from ase_geomol.graph import AtomGraph, collate, edge_vectors, from_atoms
from ase_geomol.models import GeoMFormer, GeoMFormerConfig, build_model
from ase_geomol.models.geomformer.config import Part
from ase_geomol.models.geomformer.modules import (
    Attention,
    EquivariantFeedForward,
    Geometry,
    HeadwiseModule,
    InvariantSelf,
    degree_two,
)
from ase_geomol.models.geomformer.network import CENTROID_SOFTENING, Block
from ase_geomol.nn import make_blocks

PARTS = get_args(Part)
IN_BOTH = [part for part in PARTS if part != "quadrupole"]
"""Parts that the global form has, too."""


def _run(model: GeoMFormer, atoms: Atoms):
    graph = from_atoms(atoms, model.cutoff)
    vectors = edge_vectors(graph, graph.positions, graph.cell)
    return model(graph.numbers, graph.system, graph.edge_index, vectors)


def _geometry(model: GeoMFormer, graph: AtomGraph) -> Geometry:
    """What the attention of the model reads."""
    blocks = make_blocks(graph.system, graph.edge_index, whole=model.cutoff is None)
    types = blocks.place_atoms(model.types[graph.numbers])
    return model._geometry(types, blocks, edge_vectors(graph, graph.positions, graph.cell))[1]


def _count(module: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


# Ablations and counts


@pytest.mark.parametrize("radial_channels", [None, 5])
@pytest.mark.parametrize(("part", "cutoff"), [*((part, 4.2) for part in PARTS), *((part, None) for part in IN_BOTH)])
def test_each_part_can_be_left_out_and_matters(
    make_potential, make_structure, part: str, cutoff: float | None, radial_channels: int | None
) -> None:
    """With the same weights everywhere else, leaving a part out changes the energies, and only its weights go."""
    options = {"cutoff": cutoff, "radial_channels": radial_channels}
    full = make_potential(seed=2, **options).model
    ablated = make_potential(seed=2, without=(part,), **options).model
    _copy_what_is_left(full, ablated, part)
    assert _count(full) - _count(ablated) == _expected_loss(full.config, part)
    atoms = make_structure("ethanol")
    difference = (_run(full, atoms).energies - _run(ablated, atoms).energies).abs().max()
    assert difference > 1e-4, f"the energy does not notice {part}"


def _copy_what_is_left(full: GeoMFormer, ablated: GeoMFormer, part: str) -> None:
    """Give the ablated model the full one's weights; without bias, radial functions are the filters only."""
    weights = full.state_dict()
    for key, value in ablated.state_dict().items():
        if part == "structural_bias" and ".radial." in key and "quadrupole" not in key:
            weights[key] = weights[key][full.config.heads :]
        assert weights[key].shape == value.shape, key
    kept = ablated.load_state_dict(weights, strict=False)
    assert not kept.missing_keys


def _expected_loss(config: GeoMFormerConfig, part: str) -> int:
    """Parameters of a part over all layers, from the specification's formulas (weights and biases).

    The last layer of a network without a head for vectors lacks what only vectors would receive.
    """
    d, r, norms = config.channels, config.ffn_channels, 3 * config.layers + 1
    radial = ((config.radial_channels or config.kernels) + 1) * config.heads  # of one function per head
    local = config.cutoff is not None
    per_layer = {
        "invariant_self": 4 * d * d + 4 * d + (2 if local else 1) * radial,
        "equivariant_self": 4 * d * d + radial,
        "invariant_cross": (8 if local else 6) * d * d + 2 * d + radial,
        "equivariant_cross": 4 * d * d + (3 if local else 2) * (d * d + d) + (3 if local else 1) * radial,
        "quadrupole": 6 * d * d + 2 * d + radial,
        "invariant_ffn": 2 * d * r + r + d,
        "equivariant_ffn": 3 * d * r + r,
        "structural_bias": 4 * radial,
    }
    of_norms = {"invariant_norm": norms * 2 * d, "equivariant_norm": norms * d}
    if part in of_norms:
        return of_norms[part]
    unread = {
        "equivariant_cross": per_layer["equivariant_cross"],
        "equivariant_ffn": per_layer["equivariant_ffn"],
        "quadrupole": 2 * d * d,
        "structural_bias": radial,
    }
    return config.layers * per_layer[part] - (0 if config.direct_forces else unread.get(part, 0))


def test_the_global_form_has_no_quadrupole(make_potential, make_structure) -> None:
    """Nor anything else that needs neighbours: these options change nothing there."""
    options = {"quadrupole": False, "query_products": False}
    full, bare = make_potential(seed=2, cutoff=None).model, make_potential(seed=2, cutoff=None, **options).model
    left_out = make_potential(seed=2, cutoff=None, without=("quadrupole",)).model
    assert full.state_dict().keys() == bare.state_dict().keys() == left_out.state_dict().keys()
    assert not any("quadrupole" in name for name in full.state_dict())
    atoms = make_structure("ethanol")
    energies = _run(full, atoms).energies
    assert torch.equal(energies, _run(bare, atoms).energies)
    assert torch.equal(energies, _run(left_out, atoms).energies)


@pytest.mark.parametrize("option", ["query_products", "quadrupole"])
def test_what_the_local_form_adds_can_be_left_out_and_matters(make_potential, make_structure, option: str) -> None:
    full, bare = make_potential(seed=2).model, make_potential(seed=2, **{option: False}).model
    d, radial = full.config.channels, (full.config.kernels + 1) * full.config.heads
    per_layer = {"query_products": 2 * d * d, "quadrupole": 6 * d * d + 2 * d + radial}
    unread = 2 * d * d if option == "quadrupole" else 0
    assert _count(full) - _count(bare) == full.config.layers * per_layer[option] - unread
    weights = full.state_dict()
    bare.load_state_dict({key: weights[key][: len(value)] for key, value in bare.state_dict().items()})
    atoms = make_structure("ethanol")
    difference = (_run(full, atoms).energies - _run(bare, atoms).energies).abs().max()
    assert difference > 1e-4, f"the energy does not notice {option}"


@pytest.mark.parametrize("channels", [16, 96])
def test_a_layer_of_the_global_form_has_25_d_squared_weights(channels: int) -> None:
    """The local form adds a gate of directions, query products, and the quadrupole: 1 + 2 + 6."""
    for cutoff, expected in [(None, 25), (5.0, 34)]:
        sizes = {"channels": channels, "ffn_channels": channels, "heads": 8}
        config = GeoMFormerConfig.model_validate({"elements": (1, 6), "cutoff": cutoff, **sizes})
        named = Block(config).named_parameters()
        matrices = sum(p.numel() for name, p in named if p.dim() == 2 and not name.endswith("radial.weight"))
        assert matrices == expected * channels**2


def test_radial_functions_cost_one_number_per_head_and_kernel() -> None:
    """Four biases, four filters; through a hidden layer they are made from that instead."""
    for radial_channels, width in [(None, 24), (20, 20)]:
        config = GeoMFormerConfig(elements=(1, 6), radial_channels=radial_channels)
        radial = [p for name, p in Block(config).named_parameters() if ".radial." in name]
        assert sum(p.numel() for p in radial) == 8 * config.heads * (width + 1)
    options = {"elements": [1, 6], "layers": 2, "kernels": 20}
    with_hidden = _count(build_model("geomformer", {**options, "radial_channels": 20}))
    assert with_hidden - _count(build_model("geomformer", options)) == 20 * 21


def test_layers_add_the_same_number_of_parameters() -> None:
    sizes = [_count(build_model("geomformer", {"elements": [1, 6], "layers": layers})) for layers in (1, 2, 3)]
    assert sizes[2] - sizes[1] == sizes[1] - sizes[0]


UNREAD = ("blocks.1.norms.2.vectors", "final_norms.vectors")
"""The energy head reads scalars only; only the features of the atoms have vectors after the last layer."""


@pytest.mark.parametrize("options", [{}, {"attention_norm": "softmax"}, {"radial_channels": 6}], ids=str)
@pytest.mark.parametrize("names", [("ethanol", "triclinic"), ("ethanol", "co2")], ids=["single atoms", "molecules"])
def test_every_parameter_is_used_except_what_nothing_reads_after_the_last_layer(
    make_potential, make_structure, names: tuple[str, str], options: dict[str, object]
) -> None:
    for direct in (False, True):
        potential = make_potential(seed=0, direct_forces=direct, **options).train()
        prediction = potential(collate([from_atoms(make_structure(name), potential.cutoff) for name in names]))
        loss = prediction.forces.square().sum()
        if direct:
            loss = loss + prediction.direct_forces.square().sum()
        loss.backward()
        for name, parameter in potential.model.named_parameters():
            silent = parameter.grad is None or not parameter.grad.any()
            shift = name == "readout.out.bias"
            unread = not direct and name.startswith(UNREAD)
            assert silent == (shift or unread), name
            assert silent or torch.isfinite(parameter.grad).all(), name


@pytest.mark.parametrize("cutoff", [4.2, None])
def test_parts_that_only_a_head_for_vectors_needs_do_not_touch_the_energy(
    make_potential, make_structure, cutoff: float | None
) -> None:
    full, lean = (make_potential(seed=0, cutoff=cutoff, direct_forces=direct).model for direct in (True, False))
    assert not lean.load_state_dict(full.state_dict(), strict=False).missing_keys
    assert _count(lean) < 0.9 * _count(full)
    atoms = make_structure("ethanol")
    assert torch.equal(_run(lean, atoms).energies, _run(full, atoms).energies)


# Bias


@pytest.mark.parametrize("radial_channels", [None, 5])
@pytest.mark.parametrize("cutoff", [4.2, None])
@pytest.mark.parametrize("symmetric", [True, False])
def test_bias_is_symmetric_exactly_if_the_pair_tables_are(
    make_potential, make_structure, symmetric: bool, cutoff: float | None, radial_channels: int | None
) -> None:
    """So are the filters, in every module."""
    model = make_potential(seed=1, cutoff=cutoff, radial_channels=radial_channels).model
    n = len(model.elements)
    if symmetric:
        for table in (model.radial.scale, model.radial.offset):
            square = table.data.view(n, n)
            table.data = ((square + square.T) / 2).reshape(-1)
    geometry = _geometry(model, from_atoms(make_structure("ethanol"), cutoff))
    assert geometry.blocks.count == 1, "one matrix per head"
    modules = [module for module in model.modules() if isinstance(module, HeadwiseModule)]
    assert len(modules) == model.config.layers * (5 if cutoff else 4) - 1
    for module in modules:
        for function in module.radial_functions(geometry):
            difference = (function - function.mT) * geometry.envelope
            worst = difference.abs().max().item()
            assert worst < 1e-14 if symmetric else worst > 1e-3


def test_every_module_has_its_own_bias(make_potential, make_structure) -> None:
    model = make_potential(seed=1).model
    geometry = _geometry(model, from_atoms(make_structure("ethanol"), model.cutoff))
    modules = [module for module in model.modules() if isinstance(module, Attention)]
    biases = torch.cat([module.radial_functions(geometry)[0] for module in modules])
    assert len(modules) == 7
    assert biases.shape == (7 * model.config.heads, 9, 9)
    differences = (biases[:, None] - biases[None]).abs().amax((-2, -1)) + torch.eye(len(biases))
    assert (differences > 1e-3).all()


# Configuration

BAD = {
    "unknown field": ({"chanels": 16}, "chanels"),
    "no elements": ({"elements": []}, "elements"),
    "element twice": ({"elements": [1, 1]}, "different atomic numbers"),
    "element 0": ({"elements": [0, 1]}, "1 to 118"),
    "element 119": ({"elements": [119]}, "1 to 118"),
    "heads do not divide": ({"channels": 10, "heads": 4}, "multiple of heads"),
    "negative cutoff": ({"cutoff": -1.0}, "cutoff"),
    "cutoff is a word": ({"cutoff": "far"}, "cutoff"),
    "no layers": ({"layers": 0}, "layers"),
    "one kernel": ({"kernels": 1}, "kernels"),
    "no radial channels": ({"radial_channels": 0}, "radial_channels"),
    "envelope without C2": ({"envelope_power": 2}, "envelope_power"),
    "unknown attention": ({"attention_norm": "hard"}, "attention_norm"),
    "unknown norm": ({"equivariant_norm": "svd"}, "equivariant_norm"),
    "no floor": ({"norm_floor": 0.0}, "norm_floor"),
    "dropout of everything": ({"hidden_dropout": 1.0}, "hidden_dropout"),
    "unknown part": ({"without": ["soul"]}, "without"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_configurations_are_refused_by_name(case: str) -> None:
    options, word = BAD[case]
    with pytest.raises(ConfigError, match=word) as caught:
        build_model("geomformer", {"elements": [1, 6], **options})
    assert str(caught.value).startswith("The geomformer configuration is not valid:")


def test_unknown_architecture_lists_the_known() -> None:
    with pytest.raises(ConfigError, match=r"'geoformer'.*knows: est, geomformer"):
        build_model("geoformer", {"elements": [1]})


def test_configuration_is_frozen_and_survives_json() -> None:
    config = GeoMFormerConfig(elements=(1, 6), cutoff=None, without=("invariant_ffn",))
    assert GeoMFormerConfig.model_validate_json(config.model_dump_json()) == config
    with pytest.raises(ValueError, match="frozen"):
        config.layers = 7


def test_defaults_follow_the_form_and_are_stored() -> None:
    for cutoff, expected in {5.0: ("silu", "exponential", 24, None), None: ("softmax", "gaussian", 32, 32)}.items():
        stored = GeoMFormerConfig(elements=(1,), cutoff=cutoff).model_dump(mode="json")
        assert tuple(stored[x] for x in ("attention_norm", "radial_basis", "kernels", "radial_channels")) == expected
        assert stored["norm_floor"] == 1.0
        assert GeoMFormerConfig(elements=(1,), cutoff=cutoff, kernels=7, radial_channels=None).radial_channels is None
    for norm, floor in [("rms", 1.0), ("whiten", 0.05)]:
        assert GeoMFormerConfig(elements=(1,), equivariant_norm=norm).norm_floor == floor
    assert GeoMFormerConfig(elements=(1,), radial_basis="gaussian").kernels == 32
    with pytest.raises(ConfigError, match=r"radial_basis: [^;]*$"):
        build_model("geomformer", {"elements": [1], "radial_basis": "bessel"})


# Both forms against a dense reference


def _dense(model: GeoMFormer, numbers: Tensor, r: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Energies, scalars, vectors of one molecule by dense matrices, from the formulas and the raw weights."""
    w, config = model.state_dict(), model.config
    n, d, h = len(numbers), config.channels, config.heads
    local, norm = config.cutoff is not None, config.attention_norm
    types, one = torch.tensor([config.elements.index(int(z)) for z in numbers]), torch.eye(n, dtype=torch.float64)

    def linear(name: str, x: Tensor) -> Tensor:
        y = x @ w[f"{name}.weight"].T
        return y + w[f"{name}.bias"] if f"{name}.bias" in w else y

    def kernels(name: str, x: Tensor, kind: Tensor) -> Tensor:
        x = (w[f"{name}.scale"][kind] * x + w[f"{name}.offset"][kind])[..., None]
        if config.radial_basis == "exponential" or (config.radial_basis is None and local):
            k, least = config.kernels or 24, math.exp(-(config.cutoff or config.kernel_reach))
            grid = least + (1 - least) / (k - 1) * torch.arange(k, dtype=torch.float64)
            return torch.exp(-(((torch.exp(-x) - grid) / (1 - least) * k / 2) ** 2))
        width = w[f"{name}.width"].abs() + 1e-5
        return torch.exp(-(((x - w[f"{name}.centre"]) / width) ** 2) / 2) / (width * math.sqrt(2 * math.pi))

    to_sender = r[None, :] - r[:, None]
    distance = (to_sender**2).sum(-1).sqrt()
    direction = to_sender / (distance + one)[..., None]
    traceless = 1.5 * (direction[..., :, None] * direction[..., None, :] - torch.eye(3, dtype=torch.float64) / 3)
    x = (distance / (config.cutoff or math.inf)).clamp(max=1)
    envelope = 1 - 10 * x**3 + 15 * x**4 - 6 * x**5
    of_others = envelope * (1 - one)
    psi = kernels("radial", distance, types[:, None] * len(config.elements) + types[None, :])
    others = psi * of_others[..., None]
    scalars = w["embedding.weight"][types] + linear("centrality", others.sum(1))
    if local:
        vectors = linear("start_vectors", torch.einsum("ija,ijk->iak", direction, others))
    else:
        centred = r - r.mean(0)
        softened = torch.sqrt((centred**2).sum(-1) + CENTROID_SOFTENING**2)
        vectors = centred[:, :, None] * linear("start_vectors", kernels("from_centroid", softened, types))[:, None]

    def radial(name: str) -> list[Tensor]:
        """Functions of the distance (n, n, h) that a module has: its bias, then its filters."""
        hidden = functional.gelu(linear("radial_hidden", psi)) if config.radial_channels else psi
        return list(linear(f"{name}.radial", hidden).split(h, -1))

    def by_channel(x: Tensor) -> Tensor:
        return x.repeat_interleave(d // h, -1)

    def normed(name: str, s: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        s = functional.layer_norm(s, (d,), w[f"{name}.scalars.weight"], w[f"{name}.scalars.bias"])
        v = v - v.mean(-1, keepdim=True)
        trace = torch.einsum("nid,nid->n", v, v) / d
        return s, v / torch.sqrt(trace / 3 + 1.0)[:, None, None] * w[f"{name}.vectors.weight"]

    def weights(q: Tensor, k: Tensor, bias: Tensor) -> Tensor:
        """Enveloped weights (n, n, h) of queries and keys (n, rows, d); only softmax has an atom see itself."""
        q, k = (x.reshape(n, -1, h, d // h) for x in (q, k))
        logits = torch.einsum("iahc,jahc->ijh", q, k) / math.sqrt(q.shape[1] * d // h) + bias
        if norm == "silu":
            return of_others[..., None] * logits / (1 + torch.exp(-logits))
        if norm == "sum":
            return of_others[..., None] * torch.exp(logits)
        exponential = envelope[..., None] * torch.exp(logits)
        return exponential / exponential.sum(1, keepdim=True)

    def product(x: Tensor, y: Tensor) -> Tensor:
        return (x * y).sum(1) / math.sqrt(3)

    def invariant_self(at: str, s: Tensor) -> Tensor:
        q, k, x = linear(f"{at}.query_key_value", s)[:, None].chunk(3, -1)
        bias, *filters = radial(at)
        a = weights(q, k, bias) * (filters[0] if local else 1.0)
        return linear(f"{at}.out", torch.einsum("ijd,jd->id", by_channel(a), x[:, 0]))

    def equivariant_self(at: str, v: Tensor) -> Tensor:
        q, k, x = linear(f"{at}.query_key_value", v).chunk(3, -1)
        a = by_channel(weights(q, k, radial(at)[0]))
        return linear(f"{at}.out", torch.einsum("ijd,jad->iad", a, x))

    def invariant_cross(at: str, s: Tensor, v: Tensor) -> Tensor:
        k1, k2, v1, v2, *more = linear(f"{at}.factors", v).split(d, -1)
        a = by_channel(weights(linear(f"{at}.query", s)[:, None], product(k1, k2)[:, None], radial(at)[0]))
        update = torch.einsum("ijd,jd->id", a, product(v1, v2))
        if local and config.query_products:
            update = update + torch.einsum("ijd,iad,jad->id", a, *more) / math.sqrt(3)
        return linear(f"{at}.out", update)

    def equivariant_cross(at: str, s: Tensor, v: Tensor) -> Tensor:
        q, k, x = linear(f"{at}.from_vectors", v).chunk(3, -1)
        gates = linear(f"{at}.from_scalars", s).split(d, -1)
        bias, *filters = radial(at)
        a = weights(q, k * gates[0][:, None], bias)
        if not local:
            return linear(f"{at}.out", torch.einsum("ijd,jad,jd->iad", by_channel(a), x, gates[1]))
        update = torch.einsum("ijd,jad,jd->iad", by_channel(a * filters[0]), x, gates[1])
        update = update + torch.einsum("ijd,ija,jd->iad", by_channel(a * filters[1]), direction, gates[2])
        return linear(f"{at}.out", update)

    def quadrupole(at: str, s: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """In matrices q = 3/2 (r r^T - 1/3): the product of two of them, q : q', is 3/2 that of their harmonics."""
        a = by_channel(radial(at)[0] * of_others[..., None])
        q = torch.einsum("ijd,ijab,jd->iabd", a, traceless, linear(f"{at}.value", s))
        first, second = linear(f"{at}.factors", q).chunk(2, -1)
        contracted = torch.einsum("iabd,iabd->id", first, second) * 2 / 3 / math.sqrt(5)
        turned = torch.einsum("iabd,ibd->iad", q, linear(f"{at}.vectors", v))
        return linear(f"{at}.out_scalars", contracted), linear(f"{at}.out_vectors", turned)

    for layer in range(config.layers):
        s, v = normed(f"blocks.{layer}.norms.0", scalars, vectors)
        at = f"blocks.{layer}.parts"
        scalars, vectors = scalars + invariant_self(f"{at}.invariant_self", s), vectors
        vectors = vectors + equivariant_self(f"{at}.equivariant_self", v)

        s, v = normed(f"blocks.{layer}.norms.1", scalars, vectors)
        scalars = scalars + invariant_cross(f"{at}.invariant_cross", s, v)
        vectors = vectors + equivariant_cross(f"{at}.equivariant_cross", s, v)
        if local and config.quadrupole:
            more_scalars, more_vectors = quadrupole(f"{at}.quadrupole", s, v)
            scalars, vectors = scalars + more_scalars, vectors + more_vectors

        s, v = normed(f"blocks.{layer}.norms.2", scalars, vectors)
        scalars = scalars + linear(f"{at}.invariant_ffn.out", functional.gelu(linear(f"{at}.invariant_ffn.hidden", s)))
        gate = functional.gelu(linear(f"{at}.equivariant_ffn.gate", s))[:, None]
        vectors = vectors + linear(f"{at}.equivariant_ffn.out", linear(f"{at}.equivariant_ffn.hidden", v) * gate)

    scalars, vectors = normed("final_norms", scalars, vectors)
    energies = linear("readout.out", functional.gelu(linear("readout.hidden", scalars)))[:, 0]
    return energies, scalars, vectors


GLOBAL: dict[str, object] = {"cutoff": None}
LOCAL: dict[str, object] = {"cutoff": 2.9}
FORMS: dict[str, dict[str, object]] = {
    "global": GLOBAL,
    "global silu": {**GLOBAL, "attention_norm": "silu"},
    "global radial network": {**GLOBAL, "radial_channels": 5},
    "global exponential": {**GLOBAL, "radial_basis": "exponential"},
    "local": LOCAL,
    "local gaussian": {**LOCAL, "radial_basis": "gaussian"},
    "local softmax": {**LOCAL, "attention_norm": "softmax"},
    "local sum": {**LOCAL, "attention_norm": "sum"},
    "local radial network": {**LOCAL, "radial_channels": 5},
    "local softmax radial network": {**LOCAL, "attention_norm": "softmax", "radial_channels": 5},
    "local without query products": {**LOCAL, "query_products": False},
    "local without quadrupole": {**LOCAL, "quadrupole": False},
    "local with one head": {**LOCAL, "heads": 1},
    "local with as many heads as channels": {**LOCAL, "heads": 16},
}


@pytest.mark.parametrize("largest", [128, 0], ids=["whole structures", "single atoms"])
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", ["ethanol", "methane", "co2", "atom"])
def test_both_forms_equal_a_dense_reference(
    make_potential, make_structure, monkeypatch, name: str, form: str, largest: int
) -> None:
    """The local form in both ways to compute it; the global one has whole structures always."""
    monkeypatch.setattr("ase_geomol.nn.blocks.LARGEST_BLOCK", largest)
    model = make_potential(seed=4, direct_forces=True, **FORMS[form]).model
    atoms = make_structure(name)
    ours = _run(model, atoms)
    expected = _dense(model, torch.tensor(atoms.numbers), torch.tensor(atoms.positions))
    for actual, dense in zip((ours.energies, ours.scalars, ours.vectors), expected, strict=True):
        assert torch.allclose(actual, dense, rtol=1e-11, atol=1e-11)


def test_degree_two_harmonics_are_legendres_polynomial_of_the_angle() -> None:
    first, second = functional.normalize(torch.randn(2, 7, 3, dtype=torch.float64), dim=-1)
    y = [degree_two(r.T[None, :, :, None])[0, :, :, 0] for r in (first, second)]  # (5, 7)
    cosine = (first * second).sum(-1)
    assert torch.allclose((y[0] * y[1]).sum(0), (3 * cosine**2 - 1) / 2, atol=1e-14)
    assert torch.allclose(y[0].square().sum(0), torch.ones(7, dtype=torch.float64), atol=1e-14)


def test_the_quadrupole_sees_what_vectors_cannot(make_potential) -> None:
    """One layer: the four neighbours' vectors cancel at the centre, in a square as in a tetrahedron."""
    square = np.array([[1, 1, 0], [1, -1, 0], [-1, 1, 0], [-1, -1, 0]]) / np.sqrt(2)
    tetrahedron = np.array([[1, 1, 1], [1, -1, -1], [-1, 1, -1], [-1, -1, 1]]) / np.sqrt(3)
    for quadrupole in (False, True):
        model = make_potential(seed=4, layers=1, cutoff=1.7, quadrupole=quadrupole).model
        energies = [
            _run(model, Atoms("CO4", np.concatenate([np.zeros((1, 3)), 1.3 * corners]))).energies[0].item()
            for corners in (square, tetrahedron)
        ]
        difference = abs(energies[0] - energies[1])
        assert difference > 1e-5 if quadrupole else difference < 1e-14


def test_global_form_reads_positions_from_the_centroid(make_potential, make_structure) -> None:
    model, atoms = make_potential(seed=4, cutoff=None).model, make_structure("ethanol")
    near = _run(model, atoms)
    atoms.positions += [500.0, -300.0, 200.0]
    far = _run(model, atoms)
    assert torch.allclose(near.energies, far.energies, atol=1e-11)
    assert torch.allclose(near.vectors, far.vectors, atol=1e-11)


def test_global_form_sees_distant_atoms_and_the_local_form_does_not(make_potential, make_structure) -> None:
    ethanol = make_structure("ethanol")
    both = ethanol + Atoms("C", [[30.0, 0, 0]])
    for cutoff, sees in [(None, True), (4.2, False)]:
        model = make_potential(seed=4, cutoff=cutoff).model
        change = (_run(model, both).energies[: len(ethanol)] - _run(model, ethanol).energies).abs().max()
        assert change > 1e-5 if sees else change < 1e-13


# Direct forces


@pytest.mark.parametrize("cutoff", [4.2, None])
def test_direct_forces_turn_with_the_molecule(make_potential, make_structure, cutoff: float | None) -> None:
    potential = make_potential(seed=3, cutoff=cutoff, direct_forces=True)
    atoms = make_structure("ethanol")
    rotation = -np.linalg.qr(np.random.default_rng(0).normal(size=(3, 3)))[0]
    turned = Atoms(atoms.numbers, atoms.positions @ rotation.T)
    before = potential(from_atoms(atoms, cutoff)).direct_forces.numpy()
    after = potential(from_atoms(turned, cutoff)).direct_forces.numpy()
    assert np.abs(before).max() > 1e-3
    np.testing.assert_allclose(after, before @ rotation.T, atol=1e-11)


def test_direct_forces_are_not_the_gradient_but_energy_and_stress_stay(make_potential, make_structure) -> None:
    """They come with every prediction, whether or not the gradient is asked for, in units of the potential."""
    potential, atoms = make_potential(seed=3, direct_forces=True), make_structure("triclinic")
    without_head = make_potential(seed=3)
    kept = without_head.load_state_dict(potential.state_dict(), strict=False)
    assert not kept.missing_keys
    graph = from_atoms(atoms, potential.cutoff)
    prediction, plain = potential(graph, stress=True), without_head(graph, stress=True)
    assert not torch.allclose(prediction.forces, prediction.direct_forces)
    assert torch.equal(prediction.direct_forces, potential.scale * potential.features(graph).forces)
    for name in ("energy", "energies", "forces", "stress"):
        assert torch.equal(getattr(prediction, name), getattr(plain, name)), name
    assert not prediction.direct_forces.requires_grad
    alone = potential(graph, forces=False)
    assert alone.forces is None
    assert alone.stress is None
    assert torch.allclose(alone.direct_forces, prediction.direct_forces, rtol=0, atol=1e-14)
    assert torch.allclose(alone.energy, prediction.energy, rtol=1e-14)


def test_no_direct_forces_without_a_head(make_potential, make_structure) -> None:
    potential = make_potential()
    graph = from_atoms(make_structure("methane"), potential.cutoff)
    assert potential(graph).direct_forces is None
    assert potential.features(graph).forces is None


# Dropout


def _block(**options: object) -> Block:
    config = {"elements": (1, 6), "channels": 64, "heads": 4, "ffn_channels": 8, "kernels": 8, **options}
    torch.manual_seed(0)
    return Block(GeoMFormerConfig.model_validate(config))


class _Ones(torch.nn.Module):
    def forward(self, scalars: Tensor, vectors: Tensor) -> Tensor:
        return torch.ones_like(vectors)


def test_hidden_dropout_drops_whole_vector_channels() -> None:
    block = _block(hidden_dropout=0.4)
    block.parts["equivariant_ffn"] = _Ones()
    nothing = torch.zeros(50, 3, 64)
    update = block._add(nothing, "equivariant_ffn", torch.zeros(50, 64), nothing)
    assert torch.equal(update[:, 0], update[:, 1])
    assert torch.equal(update[:, 0], update[:, 2])
    kept = update[:, 0] > 0
    assert 0.5 < kept.float().mean() < 0.7
    assert torch.allclose(update[:, 0][kept], torch.tensor(1 / 0.6))
    block.eval()
    assert torch.equal(block._add(nothing, "equivariant_ffn", torch.zeros(50, 64), nothing), nothing + 1)


def test_hidden_dropout_drops_channels_of_both_updates_of_the_quadrupole(make_potential, make_structure) -> None:
    model = make_potential(hidden_dropout=0.4, without=tuple(part for part in PARTS if part != "quadrupole")).model
    geometry = _geometry(model, from_atoms(make_structure("ethanol"), model.cutoff))
    start = torch.randn(9, 16).double(), torch.randn(9, 3, 16).double()
    block = model.blocks[0].eval()
    complete = [after - before for after, before in zip(block(*start, geometry), start, strict=True)]
    torch.manual_seed(0)
    dropped = [after - before for after, before in zip(block.train()(*start, geometry), start, strict=True)]
    kept = [update != 0 for update in dropped]
    for whole, update, mask in zip(complete, dropped, kept, strict=True):
        assert 0.5 < mask.double().mean() < 0.7
        assert torch.allclose(update[mask], whole[mask] / 0.6, rtol=1e-9, atol=1e-13)
    assert torch.equal(kept[1], kept[1][:, :1].expand_as(kept[1]))


def test_attention_dropout_drops_whole_heads_of_a_pair_in_training_only(make_potential, make_structure) -> None:
    """A weight is one number per head; what is left is scaled up."""
    model = make_potential(attention_dropout=0.3).model
    module: InvariantSelf = model.blocks[0].parts["invariant_self"]
    geometry = _geometry(model, from_atoms(make_structure("ethanol"), model.cutoff))
    query = torch.randn(9, 16, dtype=torch.float64)
    complete, filters = module.eval().weights(query, query, geometry)
    assert complete.shape == (4, 9, 9)
    pairs = geometry.envelope.expand_as(complete) > 0
    assert torch.equal(complete != 0, pairs)
    torch.manual_seed(0)
    dropped, same_filters = module.train().weights(query, query, geometry)
    kept = dropped != 0
    assert not kept[~pairs].any()
    assert 0.6 < kept[pairs].double().mean() < 0.8
    assert torch.allclose(dropped[kept], complete[kept] / 0.7)
    assert torch.equal(filters[0], same_filters[0]), "filters are never dropped"


@pytest.mark.parametrize("kind", ["attention_dropout", "hidden_dropout", "readout_dropout"])
def test_dropout_is_off_in_evaluation(make_potential, make_structure, kind: str) -> None:
    plain, dropping = make_potential(seed=6), make_potential(seed=6, **{kind: 0.5})
    graph = from_atoms(make_structure("ethanol"), plain.cutoff)
    assert torch.equal(plain(graph).energy, dropping(graph).energy)
    dropping.train()
    assert not torch.equal(dropping(graph).energy, dropping(graph).energy)


# Tags


@pytest.mark.parametrize("cutoff", [4.2, None])
def test_tags_are_read_where_they_are_embedded(make_potential, make_structure, cutoff: float | None) -> None:
    """Of each atom its own, in batches too; others than OC20's count as the nearest of these."""
    plain, reading = (make_potential(cutoff=cutoff, tag_embedding=embedded) for embedded in (False, True))
    graphs = []
    for tags in ([0] * 9, [0] * 8 + [2], [2] + [0] * 8, [-3] * 8 + [7]):
        atoms = make_structure("ethanol")
        atoms.set_tags(tags)
        graphs.append(from_atoms(atoms, cutoff))
    energies = [reading(graph).energy.item() for graph in graphs]
    assert energies[3] == energies[1]
    assert len({round(energy, 9) for energy in energies}) == 3
    assert len({plain(graph).energy.item() for graph in graphs}) == 1
    lone = from_atoms(make_structure("atom"), cutoff)
    together = reading(collate([lone, *graphs])).energy
    assert together[1:].tolist() == pytest.approx(energies, abs=1e-10)


# Atoms without neighbours


@pytest.mark.parametrize("norm", ["softmax", "silu", "sum"])
@pytest.mark.parametrize("cutoff", [4.2, None])
def test_an_isolated_atom_has_its_own_energy_and_no_force(make_potential, norm: str, cutoff: float | None) -> None:
    potential = make_potential(attention_norm=norm, cutoff=cutoff, direct_forces=True)
    graphs = [from_atoms(Atoms([z], [[1.0, 2.0, 3.0]]), cutoff) for z in potential.elements]
    for graph in (*graphs, collate(graphs)):
        prediction = potential(graph)
        assert torch.isfinite(prediction.energy).all()
        assert (prediction.forces == 0).all()
        assert (prediction.direct_forces.abs() < 1e-14).all()
    assert len({round(potential(graph).energy.item(), 6) for graph in graphs}) == len(graphs)
    assert (potential.hessian(graphs[0]) == 0).all()


def test_an_isolated_atom_in_a_batch_changes_nothing(make_potential, make_structure) -> None:
    potential = make_potential()
    lone, ethanol = (from_atoms(make_structure(name), potential.cutoff) for name in ("atom", "ethanol"))
    batch = potential(collate([lone, ethanol, lone]))
    assert torch.allclose(batch.energy[1], potential(ethanol).energy[0], atol=1e-12)
    assert torch.allclose(batch.energy[[0, 2]], potential(lone).energy.expand(2), atol=1e-12)


def test_equivariant_feed_forward_is_the_printed_formula() -> None:
    config = GeoMFormerConfig(elements=(1,), channels=8, ffn_channels=5, heads=2)
    torch.manual_seed(0)
    ffn = EquivariantFeedForward(config).double()
    s, v = torch.randn(3, 8, dtype=torch.float64), torch.randn(3, 3, 8, dtype=torch.float64)
    gate = functional.gelu(s @ ffn.gate.weight.T + ffn.gate.bias)
    expected = torch.einsum("nic,hc,nh,oh->nio", v, ffn.hidden.weight, gate, ffn.out.weight)
    assert torch.allclose(ffn(s, v), expected, atol=1e-14)
