"""Layers of EST against formulas written out, and against what theory says of them."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from ase.build import bulk
from ase.data import atomic_numbers, covalent_radii
from benchmarks._sphere import attend_at_points, layer_error, random_rotation, zonal_errors
from pydantic import ValidationError
from scipy.special import i0e
from torch.nn import functional

from ase_geomol.graph import edge_vectors, from_atoms
from ase_geomol.models.est import EST, ESTConfig
from ase_geomol.models.est.attention import Lift, SphericalAttention
from ase_geomol.models.est.edges import DegreeFilter, Edges, RadialFunctions
from ase_geomol.models.est.edges import make_edges as prepare_edges
from ase_geomol.models.est.elements import periodic_place
from ase_geomol.models.est.messages import MESSAGES
from ase_geomol.models.est.messages.graph_attention import DepthwiseProduct
from ase_geomol.models.est.messages.so2 import SO2Message, edge_frames
from ase_geomol.models.est.messages.zonal import ZonalAttention, log_bessel
from ase_geomol.models.est.network import Block
from ase_geomol.models.est.update import SphericalExperts, Update
from ase_geomol.nn import make_blocks, recompute
from ase_geomol.nn.degrees import CoefficientNorm, InnerProducts, SphereActivation, wigner
from ase_geomol.nn.sphere import Sphere, harmonics, point_rule, product

pytestmark = pytest.mark.usefixtures("double_precision")


@pytest.fixture
def double_precision():
    torch.manual_seed(0)
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def make_config(**options) -> ESTConfig:
    return ESTConfig.model_validate({"elements": (1, 6), "channels": 8, "heads": 2, "message_heads": 2, **options})


def make_sphere(config: ESTConfig) -> Sphere:
    return Sphere(point_rule(config.points), config.lmax)


def make_edges(n_edges: int, lmax: int, radial: int, direction: torch.Tensor | None = None) -> Edges:
    """Random edges of two atoms."""
    direction = functional.normalize(torch.randn(n_edges, 3), dim=1) if direction is None else direction
    return Edges(
        receiver=torch.arange(n_edges) % 2,
        sender=(torch.arange(n_edges) + 1) % 2,
        n_atoms=2,
        envelope=torch.linspace(0.1, 1, n_edges),
        direction=direction,
        harmonics=harmonics(lmax, direction),
        radial=torch.randn(n_edges, radial),
    )


def turned(edges: Edges, rotation: torch.Tensor, lmax: int) -> Edges:
    direction = edges.direction @ rotation.T
    return edges._replace(direction=direction, harmonics=harmonics(lmax, direction))


# Configuration


def test_modes_set_what_is_not_given():
    exact, paper = make_config(), make_config(mode="paper", heads=1)
    assert (exact.points, exact.norm, exact.bounded_attention, exact.scalar_bypass) == (
        "icosahedral-132",
        "coefficient",
        True,
        True,
    )
    assert (paper.points, paper.norm, paper.bounded_attention, paper.scalar_bypass) == (
        "fibonacci-30",
        "point",
        False,
        False,
    )
    assert (exact.so2_activation, paper.so2_activation) == ("gate", "sphere")
    assert (exact.mirror_symmetric, paper.mirror_symmetric) == (True, False)
    assert make_config(mode="paper", points="lebedev-50").points == "lebedev-50"
    assert make_config(mode="paper", lmax=4).points == "fibonacci-90"
    assert ESTConfig.model_validate({"elements": (1,), "mode": "paper"}).heads == 1
    assert make_config(mode="paper", lmax=4.0, channels="8") == make_config(mode="paper", lmax=4, channels=8)
    assert ESTConfig.model_validate(exact.model_dump()) == exact


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"channels": 10, "heads": 4}, "multiple of heads"),
        ({"message_heads": 3}, "multiple of message_heads"),
        ({"points": "cube-8"}, "No point rule"),
        ({"points": "icosahedral-12", "lmax": 4}, "too few"),
        ({"elements": (1, 1)}, "different atomic numbers"),
        ({"steerable_experts": 0, "spherical_experts": 0}, "must be an expert"),
        ({"mode": "fast"}, "exact"),
        ({"lmax": 13}, "12"),
        ({"lmax": 2.5}, "lmax"),
        ({"lmax": None}, "lmax"),
        ({"channels": math.inf}, "channels"),
        ({"expert_channels": 0}, "expert_channels"),
    ],
)
def test_wrong_configurations(options: dict, sentence: str):
    with pytest.raises(ValidationError, match=sentence):
        make_config(**options)


# Norm, lift, attention


def test_coefficient_norm_commutes_with_rotations_and_has_unit_size_on_the_sphere():
    norm = CoefficientNorm(3, 6, floor=1e-9)
    x = torch.randn(200, 16, 6)
    matrix = wigner(random_rotation()[None], 3)
    assert torch.allclose(norm(matrix @ x), matrix @ norm(x), atol=1e-12)
    values = Sphere(point_rule("lebedev-110"), 3).to_points(norm(x)).detach()
    weights = torch.tensor(point_rule("lebedev-110").weights) / (4 * math.pi)
    assert torch.einsum("n,bnc->", weights, values.square()) / 1200 == pytest.approx(1.0, rel=0.02)


def test_a_linear_map_commutes_with_synthesis():
    """Saving 5 of the specification: K rows instead of N, with the same result."""
    config = make_config()
    lift = Lift(config, make_sphere(config), 5)
    torch.nn.init.normal_(lift.linear.bias)
    x = torch.randn(3, 9, 8)
    assert torch.allclose(lift(x), lift.linear(lift.sphere.to_points(lift.norm(x))), atol=1e-12)


def test_attention_is_the_weighted_softmax():
    config = make_config(bounded_attention=False, attention_projection=False, points="lebedev-38")
    sphere = make_sphere(config)
    attention = SphericalAttention(config, sphere)
    torch.nn.init.normal_(attention.orientation)
    q, k, v = torch.randn(3, 2, 38, 8)
    for head in range(2):
        channels = slice(4 * head, 4 * head + 4)
        expected = torch.zeros(2, 38, 4)
        for a in range(38):
            cosines = sphere.points @ sphere.points[a]
            logits = (
                torch.einsum("nd,nbd->nb", q[:, a, channels], k[..., channels]) + attention.orientation[head] * cosines
            ) / 2
            shares = sphere.weights * logits.exp()
            expected[:, a] = torch.einsum("nb,nbd->nd", shares, v[..., channels]) / shares.sum(1, keepdim=True)
        assert torch.allclose(attention(q, k, v)[..., channels], expected, atol=1e-12)


def test_bounded_logits_do_not_grow_with_the_features():
    config = make_config(temperature=1.0)
    sphere = make_sphere(config)
    attention = SphericalAttention(config, sphere)
    lift = Lift(config, sphere, 24)
    q, k, v = lift(torch.randn(3, 9, 8)).chunk(3, -1)
    with torch.no_grad():
        once, much = attention(10 * q, 10 * k, v), attention(1e3 * q, 1e3 * k, v)
        assert torch.allclose(once, much, atol=1e-3)
        attention.bound = None
        attention.temperature = None
        assert not torch.allclose(attention(10 * q, 10 * k, v), attention(1e3 * q, 1e3 * k, v), atol=1e-2)


# Experts


def test_experts_are_one_wide_network_analysed_before_its_last_map():
    """Savings 3 and 4 of the specification, against a loop over experts whose outputs are analysed."""
    config = make_config(spherical_experts=3, expert_channels=5, scalar_bypass=False)
    sphere = make_sphere(config)
    experts = SphericalExperts(config, sphere)
    torch.nn.init.normal_(experts.first.bias)
    x, weights = torch.randn(2, 9, 8), torch.rand(2, 3)
    attended = experts.attention(*experts.lift(x).chunk(3, -1))
    f = experts.normed(sphere.to_points(x) + attended)
    total = attended + experts.last.bias
    for i in range(3):
        part = slice(5 * i, 5 * i + 5)
        hidden = functional.silu(f @ experts.first.weight[part].T + experts.first.bias[part])
        total = total + weights[:, i, None, None] * (hidden @ experts.last.weight[:, part].T)
    assert torch.allclose(experts(x, weights), sphere.to_coefficients(total), atol=1e-12)


def test_gates_see_invariants_only():
    config = make_config(steerable_experts=2, spherical_experts=2)
    update = Update(config, make_sphere(config))
    x = torch.randn(4, 9, 8)
    weights = torch.softmax(update.gate(x[:, 0]), -1)
    assert weights.shape == (4, 4)
    matrix = wigner(random_rotation()[None], 2)
    assert torch.allclose(update(matrix @ x), matrix @ update(x), atol=1e-6)


def test_no_pseudo_vectors_come_out():
    """Of two directions, what leaves the sphere has no part along their cross product, as true vectors cannot."""
    config = make_config()
    experts = SphericalExperts(config, make_sphere(config))
    a, b = functional.normalize(torch.randn(2, 3), dim=1)
    normal = torch.linalg.cross(a, b)
    x = torch.einsum("dk,dc->kc", harmonics(2, torch.stack([a, b])), torch.randn(2, 8))[None]
    out = experts(x, torch.ones(1, 1))[0, 1:4]
    assert (normal @ out).abs().max() < 1e-6 * out.abs().max()


# Equivariance of one layer: section 8 of the design specification of EST (random weights; second digits vary).

SECTION_8 = [
    ("point", 2, "icosahedral-72", 3.4e-3),
    ("point", 2, "icosahedral-132", 3.7e-4),
    ("point", 4, "icosahedral-132", 1.0e-2),
    ("coefficient", 2, "icosahedral-72", 5.0e-4),
    ("coefficient", 2, "icosahedral-132", 3.1e-5),
    ("coefficient", 4, "icosahedral-132", 4.9e-3),
    ("coefficient", 6, "icosahedral-132", 4.2e-2),
    ("point", 2, "fibonacci-72", 8.6e-3),
    ("coefficient", 4, "fibonacci-132", 1.1e-2),
]


@pytest.mark.parametrize(("norm", "lmax", "points", "expected"), SECTION_8)
def test_equivariance_of_a_layer(norm: str, lmax: int, points: str, expected: float):
    assert expected / 1.5 < layer_error(norm, lmax, point_rule(points)) < 1.5 * expected


def test_exact_rules_beat_the_fibonacci_lattice():
    assert layer_error("coefficient", 2, point_rule("fibonacci-132")) > 50 * layer_error(
        "coefficient", 2, point_rule("icosahedral-132")
    )


# Messages


@pytest.mark.parametrize(("norm", "nodes"), [("coefficient", 32), ("point", 80)])
def test_zonal_attention_is_attention_over_the_whole_sphere(norm: str, nodes: int):
    """The azimuth in closed form, against keys on a grid of 80 x 160 points; a norm at each point asks for more."""
    config = make_config(zonal_nodes=nodes, norm=norm, bounded_attention=False, points="icosahedral-32")
    attention = ZonalAttention(config, make_sphere(config))
    for parameter in (attention.orientation, *attention.edge_norm.parameters()):
        torch.nn.init.normal_(parameter)
    edges = make_edges(2, 2, config.radial_channels)
    given = torch.randn(2, 32, 8), edges.radial, edges.direction
    with torch.no_grad():
        found = attention(*given)
    assert torch.allclose(found, attend_at_points(attention, *given, product(2 * 80 * 80)), rtol=1e-6, atol=1e-8)


def test_nodes_of_the_zonal_message_replace_many_points():
    """Section 6.2 of the specification: 24 nodes are as exact as 256 points (random weights; second digits vary)."""
    (few, enough, many), (lattice,) = zonal_errors("point", 2, (16, 24, 32), [point_rule("fibonacci-256")])
    assert many < 0.3 * enough < 0.1 * few
    assert 20 * enough < lattice


def test_nodes_replace_many_points_at_degree_four():
    (enough,), (lattice,) = zonal_errors("point", 4, (24,), [point_rule("fibonacci-256")])
    assert 3 * enough < lattice


def test_logarithm_of_the_bessel_function():
    roots = torch.linspace(0, math.sqrt(30), 50)
    expected = torch.tensor(np.log(i0e(roots.numpy()))) + roots
    assert torch.allclose(log_bessel(roots.square()), expected, atol=1e-12)


@pytest.mark.parametrize("name", list(MESSAGES))
def test_messages_turn_with_the_atoms(name: str):
    config = make_config(message=name)
    message, radial = MESSAGES[name](config, make_sphere(config)), RadialFunctions(config)
    positions, x, rotation = torch.randn(4, 3), torch.randn(4, 9, 8), random_rotation()
    pairs = torch.tensor([[i, j] for i in range(4) for j in range(4) if i != j]).T
    blocks = make_blocks(torch.zeros(4, dtype=torch.long), pairs) if message.uses_blocks else None

    def heard(x: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
        vectors = positions[pairs[1]] - positions[pairs[0]]
        edges = prepare_edges(config, radial, torch.tensor([0, 1, 1, 0]), pairs, vectors, blocks)
        return message(x, edges)[0]

    matrix = wigner(rotation[None], 2)
    plain = heard(x, positions)
    assert torch.allclose(heard(matrix @ x, positions @ rotation.T), matrix @ plain, atol=1e-6)
    assert plain.abs().max() > 1e-3


def test_an_activation_on_the_sphere_turns_as_exactly_as_its_points_allow():
    errors = []
    for points in ("icosahedral-12", "icosahedral-132"):
        activation = SphereActivation(make_sphere(make_config(points=points)))
        x, rotation = torch.randn(2, 9, 8), random_rotation()
        matrix = wigner(rotation[None], 2)
        errors.append((activation(matrix @ x) - matrix @ activation(x)).abs().max().item())
    assert errors[1] < 1e-2 * errors[0] < 1e-2


def test_convolutions_with_an_activation_on_the_sphere():
    config = make_config(message="so2", so2_activation="sphere", points="lebedev-302")
    message = SO2Message(config, make_sphere(config))
    edges, x, rotation = make_edges(6, 2, config.radial_channels), torch.randn(2, 9, 8), random_rotation()
    matrix = wigner(rotation[None], 2)
    assert torch.allclose(message(matrix @ x, turned(edges, rotation, 2))[0], matrix @ message(x, edges)[0], atol=1e-6)


def test_channels_of_edges_are_carried_from_block_to_block():
    config = make_config(message="gata")
    block = Block(config, make_sphere(config))
    edges, x, system = make_edges(6, 2, config.radial_channels), torch.randn(2, 9, 8), torch.zeros(2, dtype=torch.long)
    _, renewed = block(x, edges, system)
    assert (renewed.radial - edges.radial).abs().max() > 1e-3
    assert torch.equal(renewed.harmonics, edges.harmonics)
    other = Block(make_config(message="graph_attention"), make_sphere(config))
    assert other(x, edges, system)[1] is edges


@pytest.mark.parametrize("message", ["graph_attention", "so2", "gata", "attention"])
def test_dropout_acts_in_training_only(message: str):
    torch.manual_seed(0)
    network = EST(make_config(message=message, attention_dropout=0.5))
    pairs = torch.tensor([[0, 0, 1, 1, 2, 2], [1, 2, 0, 2, 0, 1]])
    corners = torch.tensor([[0.0, 0, 0], [1.2, 0, 0], [0.3, 1.1, 0]])
    graph = (torch.tensor([1, 6, 1]), torch.zeros(3, dtype=torch.long), pairs, corners[pairs[1]] - corners[pairs[0]])
    assert torch.equal(network.eval()(*graph).energies, network(*graph).energies)
    network.train()
    assert not torch.equal(network(*graph).energies, network(*graph).energies)


def test_whole_structures_skip_a_path():
    config = make_config(message="gata", path_dropout=0.5)
    block = Block(config, make_sphere(config)).train()
    edges, x = make_edges(6, 2, config.radial_channels), torch.randn(2, 9, 8)
    system = torch.tensor([0, 0])
    torch.manual_seed(0)
    outcomes = {tuple(((block(x, edges, system)[0] - x).abs().amax((1, 2)) > 0).tolist()) for _ in range(20)}
    assert outcomes == {(True, True), (False, False)}


def test_the_frame_of_an_edge_may_be_turned_about_it(monkeypatch: pytest.MonkeyPatch):
    config = make_config(message="so2")
    message = SO2Message(config, make_sphere(config))
    edges, x = make_edges(6, 2, config.radial_channels), torch.randn(2, 9, 8)
    plain = message(x, edges)[0]
    angle = torch.tensor(0.7)
    cos, sin = angle.cos(), angle.sin()
    roll = torch.tensor([[cos, 0, sin], [0, 1, 0], [-sin, 0, cos]])
    monkeypatch.setattr(
        "ase_geomol.models.est.messages.so2.edge_frames", lambda direction: roll @ edge_frames(direction)
    )
    assert torch.allclose(message(x, edges)[0], plain, atol=1e-12)


def test_frames_turn_edges_onto_the_polar_axis():
    direction = torch.cat([functional.normalize(torch.randn(50, 3), dim=1), torch.eye(3), -torch.eye(3)])
    frames = edge_frames(direction)
    assert torch.allclose(torch.einsum("eij,ej->ei", frames, direction), torch.tensor([0.0, 1, 0]), atol=1e-12)
    assert torch.allclose(torch.linalg.det(frames), torch.ones(56))


def test_rotations_compose():
    first, second = random_rotation(1), random_rotation(2)
    product_of_both = wigner(first[None], 4) @ wigner(second[None], 4)
    assert torch.allclose(product_of_both, wigner((first @ second)[None], 4), atol=1e-12)


def test_shares_of_neighbours():
    edges = make_edges(6, 2, 4)
    logits = torch.randn(6, 3) * 200
    shares = edges.attention(logits)
    assert torch.isfinite(shares).all()
    for atom in range(2):
        of = edges.receiver == atom
        mild = edges.attention(logits / 100)[of]
        weights = edges.envelope[of, None] * (logits[of] / 100).exp()
        assert torch.allclose(mild, weights / (1 + weights.sum(0)), atol=1e-12)
        assert (shares[of].sum(0) <= 1).all()


def test_blocks_steer_harmonics_as_lists_do():
    """Sums over edges as products of matrices, against one product for each edge."""
    atoms = bulk("NaCl", "rocksalt", a=5.6, cubic=True)
    atoms.rattle(0.1, seed=0)
    graph = from_atoms(atoms, 4.2)
    config = make_config(elements=(11, 17), cutoff=4.2)
    types = torch.tensor([0 if z == 11 else 1 for z in graph.numbers.tolist()])
    vectors = edge_vectors(graph, graph.positions, graph.cell)
    radial = RadialFunctions(config)
    in_lists = prepare_edges(config, radial, types, graph.edge_index, vectors)
    blocks = make_blocks(graph.system, graph.edge_index)
    in_slots = prepare_edges(config, radial, types, graph.edge_index, vectors, blocks)
    filters = DegreeFilter(config)
    listed, placed = (edges.steer(filters.by_degree(edges.radial)) for edges in (in_lists, in_slots))
    assert listed.abs().max() > 0.1
    assert torch.allclose(listed, placed, atol=1e-12)


# What is read of the network


@pytest.mark.parametrize("message", list(MESSAGES))
@pytest.mark.parametrize("direct_forces", [False, True])
def test_every_weight_counts(message: str, direct_forces: bool):
    """What nothing reads would be learned, kept and computed for nothing."""
    torch.manual_seed(0)
    network = EST(make_config(message=message, layers=2, direct_forces=direct_forces))
    torch.manual_seed(1)
    positions = 1.5 * torch.randn(5, 3)
    pairs = torch.tensor([[i, j] for i in range(5) for j in range(5) if i != j]).T
    numbers = torch.tensor([1, 6, 6, 1, 1])
    output = network(numbers, torch.zeros(5, dtype=torch.long), pairs, positions[pairs[1]] - positions[pairs[0]])
    total = output.energies.square().sum() + (0.0 if output.forces is None else output.forces.square().sum())
    total.backward()
    unread = [name for name, p in network.named_parameters() if p.grad is None or not p.grad.abs().max() > 0]
    assert unread == ([] if direct_forces else ["final_norm.weight"]), "this one is of the vectors that features have"


def test_inner_products_turn_into_scalars_exactly():
    torch.manual_seed(0)
    products = InnerProducts(2, 8, 5).double()
    x, turn = torch.randn(4, 9, 8).double(), wigner(random_rotation()[None], 2)
    scalars = products(x)
    torch.testing.assert_close(products(turn @ x), scalars, rtol=1e-12, atol=1e-12)
    x[:, 0] += 1.0
    assert torch.equal(products(x), scalars), "they are of all other degrees"


@pytest.mark.parametrize(
    ("symbol", "period", "group", "shell"),
    [
        ("H", 1, 1, 0.0),
        ("He", 1, 18, 0.0),
        ("C", 2, 14, 0.0),
        ("Mg", 3, 2, 0.0),
        ("Sc", 4, 3, 0.0),
        ("Ga", 4, 13, 0.0),
        ("La", 6, 3, 0.0),
        ("Lu", 6, 3, 1.0),
        ("Hf", 6, 4, 1.0),
        ("Hg", 6, 12, 1.0),
        ("U", 7, 3, 3 / 14),
        ("Og", 7, 18, 1.0),
    ],
)
def test_places_in_the_periodic_system(symbol: str, period: int, group: int, shell: float):
    place = periodic_place(atomic_numbers[symbol])
    assert place[:7].nonzero().flatten().tolist() == [period - 1]
    assert place[7:25].nonzero().flatten().tolist() == [group - 1]
    assert float(place[25]) == pytest.approx(shell)
    assert float(place[26]) == pytest.approx(covalent_radii[atomic_numbers[symbol]])


def test_symbols_of_tensor_products_are_exact_in_double_precision():
    """e3nn keeps them in the precision that is the default when they are made."""
    torch.set_default_dtype(torch.float32)
    product = DepthwiseProduct(2, 4, None).double()
    torch.set_default_dtype(torch.float64)
    harmonic, x = harmonics(2, functional.normalize(torch.randn(3, 3), dim=1)), torch.randn(3, 9, 4)
    matrix = wigner(random_rotation()[None], 2)
    plain = product(x, harmonic, torch.empty(3, 0))
    turned = product(matrix @ x, (matrix @ harmonic[..., None])[..., 0], torch.empty(3, 0))
    assert torch.allclose(turned, matrix @ plain, atol=1e-13)


def test_zonal_message_in_parts(monkeypatch: pytest.MonkeyPatch):
    """Large systems are computed part by part of the edges, when nothing is learned."""
    config = make_config(points="icosahedral-32")
    message = MESSAGES["zonal"](config, make_sphere(config)).eval()
    edges, x = make_edges(11, 2, config.radial_channels), torch.randn(2, 9, 8, requires_grad=True)
    whole = message(x, edges)[0]
    monkeypatch.setattr(recompute, "PART", {"cpu": 2})
    sizes, told = [], message._told
    monkeypatch.setattr(message, "_told", lambda both, *rest: sizes.append(len(both)) or told(both, *rest))
    parts = message(x, edges)[0]
    assert sizes == [2, 2, 2, 2, 2, 1]
    assert torch.allclose(parts, whole, atol=1e-13)
    slopes = [torch.autograd.grad(heard.square().sum(), x)[0] for heard in (whole, parts)]
    assert torch.allclose(*slopes, atol=1e-12)
