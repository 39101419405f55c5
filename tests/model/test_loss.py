"""The loss in chunks with its gradients at once: the values that autograd finds for the loss as it is defined."""

from __future__ import annotations

import pytest
import torch

from nanolan.model.loss import IGNORE, chunk_loss, chunk_nats, summed_loss

V, C = 40, 12


def case(
    n: int = 30, seed: int = 0
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    g = torch.Generator().manual_seed(seed)
    hidden, head = torch.randn(n, C, generator=g), 2 * torch.randn(V, C, generator=g)
    targets = torch.randint(0, V, (n,), generator=g)
    return hidden.requires_grad_(), head.requires_grad_(), targets, torch.randn(n, generator=g)


@pytest.mark.parametrize("size", [30, 7, 1])
@pytest.mark.parametrize("weighted", [False, True])
def test_value_and_gradients_are_those_of_the_definition(size: int, weighted: bool) -> None:
    hidden, head, targets, weights = case()
    targets[::3] = targets[::3] if weighted else IGNORE
    args = (hidden, head, targets, weights if weighted else None)
    want, got = chunk_nats(*args), summed_loss(*args, size)
    assert got.item() == pytest.approx(want.item(), rel=1e-5)
    for a, b in zip(
        torch.autograd.grad(3 * got, (hidden, head)),
        torch.autograd.grad(3 * want, (hidden, head)),
        strict=True,
    ):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


def test_the_gradients_are_right_to_the_last_digit_in_double_precision() -> None:
    hidden, head, targets, _ = (t.double() if t.is_floating_point() else t for t in case())
    want = torch.autograd.grad(chunk_nats(hidden, head, targets), (hidden, head))
    for a, b in zip(chunk_loss(hidden.detach(), head.detach(), targets)[1:], want, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)  # the loss itself is taken in fp32


def test_logits_at_the_cap_stay_finite() -> None:
    hidden, head, targets, _ = case()
    for scale in (1e3, -1e3):
        big = (scale * hidden.detach()).requires_grad_()
        want, got = chunk_nats(big, head, targets), summed_loss(big, head, targets)
        assert got.item() == pytest.approx(want.item(), rel=1e-5)
        assert all(g.isfinite().all() for g in torch.autograd.grad(got, (big, head)))


def test_under_bf16_autocast_it_is_as_near_as_bf16_is() -> None:
    hidden, head, targets, _ = case(200)
    half = hidden.detach().bfloat16().requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        got = summed_loss(half, head, targets, None, 64)
    want = chunk_nats(hidden, head, targets)
    assert got.item() == pytest.approx(want.item(), rel=0.01)
    grads = torch.autograd.grad(got, (half, head))
    assert [g.dtype for g in grads] == [torch.bfloat16, torch.float32]
    for a, b in zip(grads, torch.autograd.grad(want, (hidden, head)), strict=True):
        assert (a.float() - b).norm() < 0.02 * b.norm()


def test_without_gradients_none_are_made() -> None:
    hidden, head, targets, weights = case()
    used = []
    with torch.no_grad():
        got = summed_loss(hidden, head, targets, weights, 7, lambda *args: used.append(args))
        assert got.item() == pytest.approx(
            chunk_nats(hidden, head, targets, weights).item(), rel=1e-5
        )
    assert not used


def test_a_second_backward_pass_is_refused_not_wrong() -> None:
    hidden, head, targets, _ = case()
    loss = summed_loss(hidden, head, targets)
    loss.backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


@pytest.mark.slow
def test_a_compiled_chunk_agrees() -> None:
    hidden, head, targets, _ = case()
    targets[::3] = IGNORE
    compiled = torch.compile(chunk_loss, dynamic=False)
    with torch.autocast("cpu", torch.bfloat16):
        results = [
            summed_loss(hidden.bfloat16(), head, targets, None, 10, chunk)
            for chunk in (chunk_loss, compiled)
        ]
    assert results[1].item() == pytest.approx(results[0].item(), rel=0.01)
    a, b = (torch.autograd.grad(loss, (hidden, head)) for loss in results)
    for x, y in zip(a, b, strict=True):
        assert (x - y).norm() < 0.02 * x.norm()
