from __future__ import annotations

import pytest
import torch

from grf_core.experiments.ordering import Order, OrderedGRF, OrderFactory
from grf_core.model import GRF
from tests.grf_core.experiments.samples import all_answers, random_samples
from tests.grf_core.models import small_config

CONFIG = small_config()
SAMPLES = random_samples(CONFIG, 28)


def test_a_fixed_order_is_grf_itself() -> None:
    torch.manual_seed(0)
    plain = GRF(CONFIG).eval()
    torch.manual_seed(0)
    ordered = OrderedGRF(CONFIG, "fixed").eval()
    theirs, ours = plain(SAMPLES.inputs, SAMPLES.lengths), ordered(SAMPLES.inputs, SAMPLES.lengths)
    torch.testing.assert_close(all_answers(ours), all_answers(theirs), atol=1e-5, rtol=1e-4)
    for head, auxiliary_BO in theirs.auxiliary.items():
        torch.testing.assert_close(ours.auxiliary[head], auxiliary_BO, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("order", ["fixed", "random", "learned"])
@pytest.mark.parametrize("training", [True, False])
def test_every_modality_that_a_sample_has_is_fused_once_and_no_other(order: Order, training: bool) -> None:
    torch.manual_seed(0)
    model = OrderedGRF(CONFIG, order).train(training)
    _, chosen_Bn = model.fuse(SAMPLES.inputs, SAMPLES.lengths)
    for row, chosen in enumerate(chosen_Bn.tolist()):
        has = [rank for rank, m in enumerate(CONFIG.modalities) if SAMPLES.lengths[m.name][row] > 0]
        assert sorted(rank for rank in chosen if rank >= 0) == has
        assert chosen[len(has) :] == [-1] * (3 - len(has))


def test_a_random_order_is_any_of_them_and_the_learned_one_is_settled_in_evaluation() -> None:
    torch.manual_seed(0)
    samples = random_samples(CONFIG, 60, absent=False)
    _, chosen_Bn = OrderedGRF(CONFIG, "random").eval().fuse(samples.inputs, samples.lengths)
    assert len({tuple(order) for order in chosen_Bn.tolist()}) == 6
    learned = OrderedGRF(CONFIG, "learned").eval()
    first, second = (learned.fuse(samples.inputs, samples.lengths)[1] for _ in range(2))
    assert torch.equal(first, second)


def test_the_loss_reaches_the_scorer() -> None:
    torch.manual_seed(0)
    model = OrderFactory("learned")(CONFIG).train()
    all_answers(model(SAMPLES.inputs, SAMPLES.lengths)).square().sum().backward()
    gradients = [parameter.grad for name, parameter in model.named_parameters() if name.startswith("scorer.0")]
    assert all(grad is not None and grad.abs().sum() > 0 for grad in gradients)


def test_a_choice_is_one_modality_forward_whatever_flows_backward() -> None:
    torch.manual_seed(0)
    model = OrderedGRF(CONFIG, "learned").train()
    waiting_Bn = torch.tensor([[True, True, False], [False, True, True]])
    choice_Bn = model._choose(torch.randn(2, 1, 16), torch.randn(2, 3, 16), waiting_Bn)
    assert choice_Bn.requires_grad
    torch.testing.assert_close(choice_Bn.detach().sum(dim=1), torch.ones(2))
    assert not choice_Bn.detach()[~waiting_Bn].any()
    torch.testing.assert_close(choice_Bn.detach(), choice_Bn.detach().round(), atol=1e-6, rtol=0)
