import torch

from genkit.rng import Rng, derive_seed, seeded_initialisation


def test_streams_are_functions_of_seed_and_purpose() -> None:
    assert torch.equal(Rng(1, "a").normal(4, 3), Rng(1, "a").normal(4, 3))
    assert not torch.equal(Rng(1, "a").normal(4, 3), Rng(1, "b").normal(4, 3))
    assert not torch.equal(Rng(1, "a").normal(4, 3), Rng(2, "a").normal(4, 3))
    assert 0 <= derive_seed(2**63 - 1, "x") < 2**63


def test_processes_share_one_global_draw() -> None:
    for draw in ("normal", "uniform"):
        whole = getattr(Rng(0, "a"), draw)(6, 2)
        parts = [getattr(Rng(0, "a", rank=rank, world_size=3), draw)(2, 2) for rank in range(3)]
        assert torch.equal(whole, torch.cat(parts))
    parts = [Rng(0, "a", rank=rank, world_size=2).integers(9, 3) for rank in range(2)]
    assert torch.equal(Rng(0, "a").integers(9, 6), torch.cat(parts))


def test_ranges() -> None:
    rng = Rng(0, "a")
    uniform = rng.uniform(1000)
    assert uniform.min() >= 0
    assert uniform.max() < 1
    assert set(rng.integers(3, 100).tolist()) == {0, 1, 2}
    ones = rng.bernoulli(0.25, 4000).mean()
    assert 0.2 < ones < 0.3


def test_state_goes_on_where_it_was() -> None:
    rng = Rng(0, "a")
    rng.normal(5)
    state = rng.state()
    expected = rng.normal(5)
    other = Rng(9, "b")
    other.set_state(state)
    assert torch.equal(other.normal(5), expected)


def test_initialisation_leaves_the_global_generator_alone() -> None:
    before = torch.get_rng_state()
    with seeded_initialisation(3):
        first = torch.randn(2)
    assert torch.equal(before, torch.get_rng_state())
    with seeded_initialisation(3):
        assert torch.equal(first, torch.randn(2))
