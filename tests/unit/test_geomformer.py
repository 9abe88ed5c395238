"""GeoMFormer: ablations, counts, configuration, the global form against a dense reference, heads, dropout."""

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
from ase_geomol.graph import collate, edge_vectors, from_atoms
from ase_geomol.models import GeoMFormer, GeoMFormerConfig, build_model
from ase_geomol.models.geomformer import CENTROID_SOFTENING, Block, EquivariantFeedForward, InvariantSelf, Part

PARTS = get_args(Part)


def _run(model: GeoMFormer, atoms: Atoms):
    graph = from_atoms(atoms, model.cutoff)
    return model(graph.numbers, graph.edge_index, edge_vectors(graph, graph.positions, graph.cell))


def _count(module: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


# Ablations and counts


@pytest.mark.parametrize("cutoff", [4.2, None])
@pytest.mark.parametrize("part", PARTS)
def test_each_part_can_be_left_out_and_matters(make_potential, make_structure, part: str, cutoff: float | None) -> None:
    """With the same weights everywhere else, leaving a part out changes the energies, and only its weights go."""
    full = make_potential(seed=2, cutoff=cutoff).model
    ablated = make_potential(seed=2, cutoff=cutoff, without=(part,)).model
    kept = ablated.load_state_dict(full.state_dict(), strict=False)
    assert not kept.missing_keys
    gone = sum(full.state_dict()[key].numel() for key in kept.unexpected_keys)
    assert gone == _count(full) - _count(ablated) == _expected_loss(full.config, part)
    atoms = make_structure("ethanol")
    difference = (_run(full, atoms).energies - _run(ablated, atoms).energies).abs().max()
    assert difference > 1e-4, f"the energy does not notice {part}"


def _expected_loss(config: GeoMFormerConfig, part: str) -> int:
    """Parameters of a part over all layers, from the specification's formulas (weights and biases)."""
    d, r, k, h = config.channels, config.ffn_channels, config.kernels, config.heads
    local, norms = config.cutoff is not None, 3 * config.layers + 1
    filters = {1: d * k + d if local else 0, 2: 2 * (d * k + d) if local else 0}
    per_layer = {
        "invariant_self": 4 * d * d + 4 * d + filters[1],
        "equivariant_self": 4 * d * d,
        "invariant_cross": (8 if local else 6) * d * d + 2 * d,
        "equivariant_cross": 4 * d * d + (3 if local else 2) * (d * d + d) + filters[2],
        "invariant_ffn": 2 * d * r + r + d,
        "equivariant_ffn": 3 * d * r + r,
    }
    once = {
        "invariant_norm": norms * 2 * d,
        "equivariant_norm": norms * d,
        "structural_bias": k * k + k + k * h + h,
    }
    return once[part] if part in once else config.layers * per_layer[part]


@pytest.mark.parametrize("channels", [16, 96])
def test_a_layer_of_the_global_form_has_25_d_squared_weights(channels: int) -> None:
    config = GeoMFormerConfig(elements=(1, 6), cutoff=None, channels=channels, ffn_channels=channels, heads=8)
    matrices = sum(p.numel() for p in Block(config).parameters() if p.dim() == 2)
    assert matrices == 25 * channels**2


def test_layers_add_the_same_number_of_parameters() -> None:
    sizes = [_count(build_model("geomformer", {"elements": [1, 6], "layers": layers})) for layers in (1, 2, 3)]
    assert sizes[2] - sizes[1] == sizes[1] - sizes[0]


def test_every_parameter_is_used_except_what_nothing_reads_after_the_last_layer(make_potential, make_structure) -> None:
    """The energy head reads scalars only: vectors updated after the last invariant cross-attention are unread."""
    unread = ("blocks.1.parts.equivariant_cross", "blocks.1.parts.equivariant_ffn", "blocks.1.norms.2.vectors")
    unread = (*unread, "final_norms.vectors")
    for direct in (False, True):
        potential = make_potential(seed=0, direct_forces=direct).train()
        graph = collate([from_atoms(make_structure(name), potential.cutoff) for name in ("ethanol", "triclinic")])
        gradient, head = potential(graph).forces, potential(graph, direct=direct).forces
        (gradient.square().sum() + head.square().sum()).backward()
        for name, parameter in potential.model.named_parameters():
            silent = parameter.grad is None or not parameter.grad.any()
            shift = name.endswith("readout.out.bias") and not name.startswith("force")
            assert silent == (shift or (not direct and name.startswith(unread))), name
            assert silent or torch.isfinite(parameter.grad).all(), name


# Bias


@pytest.mark.parametrize("symmetric", [True, False])
def test_bias_is_symmetric_exactly_if_the_pair_tables_are(make_potential, make_structure, symmetric: bool) -> None:
    model = make_potential(seed=1).model
    n = len(model.elements)
    if symmetric:
        for table in (model.radial.scale, model.radial.offset):
            square = table.data.view(n, n)
            table.data = ((square + square.T) / 2).reshape(-1)
    graph = from_atoms(make_structure("ethanol"), model.cutoff)
    vectors = edge_vectors(graph, graph.positions, graph.cell)
    edges = model._edges(model.types[graph.numbers], graph.edge_index, vectors)
    bias = {(i, j): row for i, j, row in zip(edges.receiver.tolist(), edges.sender.tolist(), edges.bias, strict=True)}
    worst = max((bias[i, j] - bias[j, i]).abs().max().item() for i, j in bias)
    assert worst < 1e-14 if symmetric else worst > 1e-3


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
    with pytest.raises(ConfigError, match=r"'geoformer'.*knows: geomformer"):
        build_model("geoformer", {"elements": [1]})


def test_configuration_is_frozen_and_survives_json() -> None:
    config = GeoMFormerConfig(elements=(1, 6), cutoff=None, without=("invariant_ffn",))
    assert GeoMFormerConfig.model_validate_json(config.model_dump_json()) == config
    with pytest.raises(ValueError, match="frozen"):
        config.layers = 7


# Both forms against a dense reference


def _dense(model: GeoMFormer, numbers: Tensor, r: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Energies, scalars, vectors of one molecule by dense matrices, from the formulas and the raw weights."""
    w, config = model.state_dict(), model.config
    n, d, h = len(numbers), config.channels, config.heads
    local = config.cutoff is not None
    types = torch.tensor([config.elements.index(int(z)) for z in numbers])

    def linear(name: str, x: Tensor) -> Tensor:
        y = x @ w[f"{name}.weight"].T
        return y + w[f"{name}.bias"] if f"{name}.bias" in w else y

    def gaussians(name: str, x: Tensor, kind: Tensor) -> Tensor:
        width = w[f"{name}.width"].abs() + 1e-5
        x = (w[f"{name}.scale"][kind] * x + w[f"{name}.offset"][kind])[..., None]
        return torch.exp(-(((x - w[f"{name}.centre"]) / width) ** 2) / 2) / (width * math.sqrt(2 * math.pi))

    to_sender = r[None, :] - r[:, None]
    distance = (to_sender**2).sum(-1).sqrt()
    direction = to_sender / (distance + torch.eye(n))[..., None]
    x = (distance / (config.cutoff or math.inf)).clamp(max=1)
    envelope = 1 - 10 * x**3 + 15 * x**4 - 6 * x**5
    psi = gaussians("radial", distance, types[:, None] * len(config.elements) + types[None, :])
    bias = linear("bias.2", functional.gelu(linear("bias.0", psi)))  # (n, n, h)
    others = (psi * (envelope - torch.eye(n))[..., None]).double()  # without the self tokens
    scalars = w["embedding.weight"][types] + linear("centrality", others.sum(1))
    if local:
        vectors = linear("start_vectors", torch.einsum("ija,ijk->iak", direction, others))
    else:
        centred = r - r.mean(0)
        softened = torch.sqrt((centred**2).sum(-1) + CENTROID_SOFTENING**2)
        vectors = centred[:, :, None] * linear("start_vectors", gaussians("from_centroid", softened, types))[:, None]

    def normed(name: str, s: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        s = functional.layer_norm(s, (d,), w[f"{name}.scalars.weight"], w[f"{name}.scalars.bias"])
        v = v - v.mean(-1, keepdim=True)
        trace = torch.einsum("nid,nid->n", v, v) / d
        return s, v / torch.sqrt(trace / 3 + 1.0)[:, None, None] * w[f"{name}.vectors.weight"]

    def weights(q: Tensor, k: Tensor) -> Tensor:
        """Enveloped softmax (n, n, d), equal within a head, of queries and keys (n, rows, d)."""
        q, k = (x.reshape(n, -1, h, d // h) for x in (q, k))
        logits = torch.einsum("iahc,jahc->ijh", q, k) / math.sqrt(q.shape[1] * d // h) + bias
        exponential = envelope[..., None] * torch.exp(logits)
        return (exponential / exponential.sum(1, keepdim=True)).repeat_interleave(d // h, -1)

    def product(x: Tensor, y: Tensor) -> Tensor:
        return (x * y).sum(1) / math.sqrt(3)

    for layer in range(config.layers):
        at = f"blocks.{layer}"
        s, v = normed(f"{at}.norms.0", scalars, vectors)
        at = f"{at}.parts"
        q, k, x = linear(f"{at}.invariant_self.query_key_value", s)[:, None].chunk(3, -1)
        a = weights(q, k) * linear(f"{at}.invariant_self.filter", psi) if local else weights(q, k)
        scalars = scalars + linear(f"{at}.invariant_self.out", torch.einsum("ijd,jd->id", a, x[:, 0]))
        q, k, x = linear(f"{at}.equivariant_self.query_key_value", v).chunk(3, -1)
        vectors = vectors + linear(f"{at}.equivariant_self.out", torch.einsum("ijd,jad->iad", weights(q, k), x))

        s, v = normed(f"blocks.{layer}.norms.1", scalars, vectors)
        f = linear(f"{at}.invariant_cross.factors", v).chunk(6 if local else 4, -1)
        a = weights(linear(f"{at}.invariant_cross.query", s)[:, None], product(f[0], f[1])[:, None])
        update = torch.einsum("ijd,jd->id", a, product(f[2], f[3]))
        if local:
            update = update + torch.einsum("ijd,iad,jad->id", a, f[4], f[5]) / math.sqrt(3)
        scalars = scalars + linear(f"{at}.invariant_cross.out", update)
        q, k, x = linear(f"{at}.equivariant_cross.from_vectors", v).chunk(3, -1)
        gates = linear(f"{at}.equivariant_cross.from_scalars", s).chunk(3 if local else 2, -1)
        a = weights(q, k * gates[0][:, None])
        if local:
            value_filter, direction_filter = linear(f"{at}.equivariant_cross.filter", psi).chunk(2, -1)
            update = torch.einsum("ijd,jad,jd->iad", a * value_filter, x, gates[1])
            update = update + torch.einsum("ijd,ija,jd->iad", a * direction_filter, direction, gates[2])
        else:
            update = torch.einsum("ijd,jad,jd->iad", a, x, gates[1])
        vectors = vectors + linear(f"{at}.equivariant_cross.out", update)

        s, v = normed(f"blocks.{layer}.norms.2", scalars, vectors)
        scalars = scalars + linear(f"{at}.invariant_ffn.out", functional.gelu(linear(f"{at}.invariant_ffn.hidden", s)))
        gate = functional.gelu(linear(f"{at}.equivariant_ffn.gate", s))[:, None]
        vectors = vectors + linear(f"{at}.equivariant_ffn.out", linear(f"{at}.equivariant_ffn.hidden", v) * gate)

    scalars, vectors = normed("final_norms", scalars, vectors)
    energies = linear("readout.out", functional.gelu(linear("readout.hidden", scalars)))[:, 0]
    return energies, scalars, vectors


@pytest.mark.parametrize("cutoff", [None, 2.9], ids=["global", "local"])
@pytest.mark.parametrize("name", ["ethanol", "methane", "co2", "atom"])
def test_both_forms_equal_a_dense_reference(make_potential, make_structure, name: str, cutoff: float | None) -> None:
    model, atoms = make_potential(seed=4, cutoff=cutoff).model, make_structure(name)
    ours = _run(model, atoms)
    expected = _dense(model, torch.tensor(atoms.numbers), torch.tensor(atoms.positions))
    for actual, dense in zip((ours.energies, ours.scalars, ours.vectors), expected, strict=True):
        assert torch.allclose(actual, dense, rtol=1e-11, atol=1e-11)


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
    before = potential(from_atoms(atoms, cutoff), direct=True).forces.numpy()
    after = potential(from_atoms(turned, cutoff), direct=True).forces.numpy()
    assert np.abs(before).max() > 1e-3
    np.testing.assert_allclose(after, before @ rotation.T, atol=1e-11)


def test_direct_forces_are_not_the_gradient_but_energy_and_stress_stay(make_potential, make_structure) -> None:
    potential, atoms = make_potential(seed=3, direct_forces=True), make_structure("triclinic")
    graph = from_atoms(atoms, potential.cutoff)
    gradient, direct = potential(graph, stress=True), potential(graph, stress=True, direct=True)
    assert not torch.allclose(gradient.forces, direct.forces)
    assert torch.equal(gradient.energy, direct.energy)
    assert torch.equal(gradient.stress, direct.stress)
    assert not direct.forces.requires_grad


def test_asking_for_a_head_that_is_not_there(make_potential, make_structure) -> None:
    potential = make_potential()
    with pytest.raises(ValueError, match="direct_forces=true"):
        potential(from_atoms(make_structure("methane"), potential.cutoff), direct=True)


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


def test_attention_dropout_drops_whole_heads_of_an_edge_in_training_only(make_potential, make_structure) -> None:
    model = make_potential(attention_dropout=0.3).model
    module: InvariantSelf = model.blocks[0].parts["invariant_self"]
    graph = from_atoms(make_structure("ethanol"), model.cutoff)
    vectors = edge_vectors(graph, graph.positions, graph.cell)
    edges = model._edges(model.types[graph.numbers], graph.edge_index, vectors)
    query = torch.randn(graph.n_atoms, 16, dtype=torch.float64)
    complete = module.eval().weights(query, query, edges)
    assert (complete != 0).all()
    torch.manual_seed(0)
    dropped = module.train().weights(query, query, edges).unflatten(-1, (4, 4))
    assert torch.equal(dropped, dropped[..., :1].expand_as(dropped))
    kept = dropped[..., 0] != 0
    assert 0.6 < kept.double().mean() < 0.8
    assert torch.allclose(dropped[..., 0][kept], complete.unflatten(-1, (4, 4))[..., 0][kept] / 0.7)


@pytest.mark.parametrize("kind", ["attention_dropout", "hidden_dropout"])
def test_dropout_is_off_in_evaluation(make_potential, make_structure, kind: str) -> None:
    plain, dropping = make_potential(seed=6), make_potential(seed=6, **{kind: 0.5})
    graph = from_atoms(make_structure("ethanol"), plain.cutoff)
    assert torch.equal(plain(graph).energy, dropping(graph).energy)
    dropping.train()
    assert not torch.equal(dropping(graph).energy, dropping(graph).energy)


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
        assert (potential(graph, direct=True).forces.abs() < 1e-14).all()
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
