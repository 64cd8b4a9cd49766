"""A small actor-critic network: one trunk, a head for pi(a|s) and one for V(s).

Shape as in NNI's N-A2C example: a linear layer with ReLU, and two linear heads. It is seeded by a
generator of its own and runs on one thread, so that the same calls give the same numbers in every
process; the global state of torch is left as it was.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any


@contextmanager
def one_thread() -> Iterator[None]:
    """Run torch on one thread: faster on nets this small, and sums keep their order."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def uniform_weights(generator: Any, inputs: int, *shape: int) -> Any:
    """Return a trainable tensor, uniform in +-1/sqrt(inputs), as torch's layers start."""
    import torch

    bound = max(1, inputs) ** -0.5
    weights = (torch.rand(*shape, generator=generator) * 2.0 - 1.0) * bound
    return weights.requires_grad_()


@dataclass(frozen=True)
class Batch:
    """Transitions to learn from; ``b`` of them, ``f`` features, ``a`` actions.

    Parameters
    ----------
    states, next_states
        Features before and after, shape ``(b, f)``.
    masks
        Which actions apply in ``states``, shape ``(b, a)``.
    actions, rewards
        What was done and what it brought, shape ``(b,)``.
    """

    states: Sequence[Sequence[float]]
    masks: Sequence[Sequence[bool]]
    actions: Sequence[int]
    rewards: Sequence[float]
    next_states: Sequence[Sequence[float]]


@dataclass(frozen=True)
class Loss:
    """How a batch becomes a loss.

    ``A = r + gamma * V(s') - V(s)``; the loss is ``mean(-sign * log pi(a|s) * A) + mean(A**2) / 2 -
    entropy * mean(H(pi))``. Of A, the actor sees a constant if ``detach``; V(s') is a constant
    always (TD(0)).
    """

    gamma: float
    entropy: float
    actor_sign: float = 1.0
    detach: bool = True


class ActorCritic:
    """Network and optimiser.

    Parameters
    ----------
    features, actions
        Widths of input and policy.
    hidden, learning_rate
        Width of the trunk; step of Adam.
    seed
        Seeds the weights.
    """

    def __init__(
        self, features: int, actions: int, *, hidden: int, learning_rate: float, seed: int
    ) -> None:
        import torch

        generator = torch.Generator().manual_seed(seed)
        self._trunk = [
            uniform_weights(generator, features, hidden, features),
            uniform_weights(generator, features, hidden),
        ]
        self._actor = [
            uniform_weights(generator, hidden, actions, hidden),
            uniform_weights(generator, hidden, actions),
        ]
        self._critic = [
            uniform_weights(generator, hidden, 1, hidden),
            uniform_weights(generator, hidden, 1),
        ]
        self._adam = torch.optim.Adam([*self._trunk, *self._actor, *self._critic], lr=learning_rate)

    def _forward(self, states: Sequence[Sequence[float]]) -> tuple[Any, Any]:
        """Return logits, shape ``(b, a)``, and values, shape ``(b,)``."""
        import torch
        from torch.nn.functional import linear

        hidden = torch.relu(linear(torch.tensor(states, dtype=torch.float32), *self._trunk))
        return linear(hidden, *self._actor), linear(hidden, *self._critic).squeeze(1)

    def policy(
        self, states: Sequence[Sequence[float]], masks: Sequence[Sequence[bool]]
    ) -> list[list[float]]:
        """Return pi(a|s), shape ``(b, a)``: zero where masked; every mask must allow an action."""
        import torch

        with one_thread(), torch.no_grad():
            logits = self._forward(states)[0].masked_fill(~torch.tensor(masks), -torch.inf)
            probabilities: list[list[float]] = torch.softmax(logits, dim=1).tolist()
        return probabilities

    def values(self, states: Sequence[Sequence[float]]) -> list[float]:
        """Return V(s), shape ``(b,)``."""
        import torch

        with one_thread(), torch.no_grad():
            values: list[float] = self._forward(states)[1].tolist()
        return values

    def update(self, batch: Batch, loss: Loss) -> None:
        """Take one step of Adam on ``batch``."""
        import torch

        with one_thread():
            logits, values = self._forward(batch.states)
            with torch.no_grad():
                after = self._forward(batch.next_states)[1]
            rewards = torch.tensor(batch.rewards, dtype=torch.float32)
            advantage = rewards + loss.gamma * after - values
            # A large negative number, not -inf: 0 * -inf would make the entropy NaN.
            logits = logits.masked_fill(~torch.tensor(batch.masks), -1e9)
            log_pi = torch.log_softmax(logits, dim=1)
            chosen = log_pi.gather(1, torch.tensor(batch.actions).unsqueeze(1)).squeeze(1)
            weight = advantage.detach() if loss.detach else advantage
            entropy = -(log_pi.exp() * log_pi).sum(dim=1)
            total = (
                -(loss.actor_sign * chosen * weight).mean()
                + 0.5 * advantage.square().mean()
                - loss.entropy * entropy.mean()
            )
            self._adam.zero_grad()
            total.backward()
            self._adam.step()
