"""An LSTM that writes a configuration one decision after another.

The controller of Zoph & Le (arXiv 1611.01578), as used for tiling by Zhang et al. (arXiv
1909.10616): what was decided last is embedded, an LSTM cell takes it in, and a softmax of the
decision's own makes the next choice.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

from autotune.search.actor_critic import one_thread, uniform_weights
from autotune.search.parameters import Factorization, Parameter, Permutation, Value, prime_factors
from autotune.search.space import Config, ConfigSpace

#: Parameters with at most so many values are one decision; larger ones are taken apart.
LISTED = 2048


@dataclass(frozen=True)
class Decisions:
    """How the values of one parameter are written as a sequence of choices.

    A small parameter is one choice among its values. A large factorization is, prime by prime and
    part by part but for the last, the exponent that the part gets, at most what is left. A large
    permutation is, place by place, which of the items that are left comes next.
    """

    parameter: Parameter
    #: Number of options of each decision.
    widths: tuple[int, ...]
    #: The values, where the parameter is one decision.
    listed: tuple[Value, ...] = ()

    @classmethod
    def of(cls, parameter: Parameter) -> Decisions:
        """Take a parameter apart."""
        split = isinstance(parameter, (Factorization, Permutation)) and parameter.size > LISTED
        if not split:
            return cls(parameter, (parameter.size,), tuple(parameter.values()))
        if isinstance(parameter, Permutation):
            return cls(parameter, tuple(range(len(parameter.items), 1, -1)))
        assert isinstance(parameter, Factorization)
        exponents = (e for _, e in prime_factors(parameter.extent))
        return cls(parameter, tuple(e + 1 for e in exponents for _ in range(parameter.parts - 1)))

    def room(self, place: int, made: Sequence[int]) -> int:
        """Return how many options decision ``place`` has left after the choices ``made``."""
        if self.listed or not isinstance(self.parameter, Factorization):
            return self.widths[place]
        since = place - place % (self.parameter.parts - 1)  # first decision on this prime
        return self.widths[place] - sum(made[since:place])

    def value(self, made: Sequence[int]) -> Value:
        """Return the value that the choices describe."""
        if self.listed:
            return self.listed[made[0]]
        if isinstance(self.parameter, Permutation):
            left = list(self.parameter.items)
            return (*(left.pop(choice) for choice in made), left[0])
        factors = cast(Factorization, self.parameter)
        parts = [1] * factors.parts
        choices = iter(made)
        for prime, exponent in prime_factors(factors.extent):
            for part in range(factors.parts - 1):
                taken = next(choices)
                parts[part] *= prime**taken
                exponent -= taken
            parts[-1] *= prime**exponent
        return tuple(parts)


class Controller:
    """The network and its optimiser.

    Parameters
    ----------
    space
        What the sequences describe.
    hidden
        Width of the LSTM and of the embeddings.
    learning_rate
        Step of Adam.
    seed
        Seeds weights and sampling.
    """

    def __init__(self, space: ConfigSpace, *, hidden: int, learning_rate: float, seed: int) -> None:
        import torch

        self._generator = torch.Generator().manual_seed(seed)
        self._hidden = hidden
        self._decisions = [Decisions.of(parameter) for parameter in space.parameters]
        #: (parameter number, place within it) of every decision.
        self._steps = [(i, k) for i, d in enumerate(self._decisions) for k in range(len(d.widths))]
        widths = [width for decisions in self._decisions for width in decisions.widths]

        def make(*shape: int) -> Any:
            return uniform_weights(self._generator, hidden, *shape)

        self._first = make(1, hidden)
        self._cell = torch.nn.LSTMCell(hidden, hidden, device="meta").to_empty(device="cpu")
        with torch.no_grad():
            for weights in self._cell.parameters():
                weights.copy_(make(*weights.shape))
        self._embeddings = [make(width, hidden) for width in widths[:-1]]
        self._heads = [(make(width, hidden), make(width)) for width in widths]
        self._adam = torch.optim.Adam(
            [
                self._first,
                *self._cell.parameters(),
                *self._embeddings,
                *itertools.chain.from_iterable(self._heads),
            ],
            lr=learning_rate,
        )

    def config(self, tokens: Sequence[int]) -> Config:
        """Return the config that a sequence of choices describes."""
        left = iter(tokens)
        return Config(
            {d.parameter.name: d.value([next(left) for _ in d.widths]) for d in self._decisions}
        )

    def sample(self, count: int) -> list[list[int]]:
        """Draw ``count`` sequences of choices."""
        import torch

        with one_thread(), torch.no_grad():
            return self._unroll([[] for _ in range(count)])[0]

    def update(
        self, sequences: Sequence[list[int]], advantages: Sequence[float], entropy: float
    ) -> None:
        """Take a step of REINFORCE: raise log pi(sequence) in proportion to its advantage.

        The loss is ``-mean(A * log pi) - entropy * mean(H)``, H summed over the decisions.
        """
        import torch

        with one_thread():
            _, log_pi, spread = self._unroll([list(sequence) for sequence in sequences])
            weight = torch.tensor(advantages, dtype=torch.float32)
            loss = -(weight * log_pi).mean() - entropy * spread.mean()
            self._adam.zero_grad()
            loss.backward()
            self._adam.step()

    def log_probability(self, tokens: Sequence[int]) -> float:
        """Return log pi of one sequence."""
        import torch

        with one_thread(), torch.no_grad():
            return float(self._unroll([list(tokens)])[1][0])

    def _unroll(self, sequences: list[list[int]]) -> tuple[list[list[int]], Any, Any]:
        """Run the LSTM along ``sequences`` (``b`` of them); extend them where they end.

        Returns
        -------
        sequences, log_pi, entropy
            The tensors have shape ``(b,)``.
        """
        import torch
        from torch.nn.functional import embedding, linear

        count = len(sequences)
        given = self._first.expand(count, -1)
        state = (torch.zeros(count, self._hidden), torch.zeros(count, self._hidden))
        log_pi, entropy = torch.zeros(count), torch.zeros(count)
        start = 0
        for place, (number, step) in enumerate(self._steps):
            decisions = self._decisions[number]
            start = place if step == 0 else start
            state = self._cell(given, state)
            logits = linear(state[0], *self._heads[place])
            room = [decisions.room(step, sequence[start:place]) for sequence in sequences]
            barred = torch.arange(logits.shape[1]) >= torch.tensor(room).unsqueeze(1)
            # A large negative number, not -inf: 0 * -inf would make the entropy NaN.
            log_p = torch.log_softmax(logits.masked_fill(barred, -1e9), dim=1)
            if len(sequences[0]) == place:
                drawn = torch.multinomial(log_p.exp(), 1, generator=self._generator)
                for sequence, choice in zip(sequences, drawn.squeeze(1).tolist(), strict=True):
                    sequence.append(choice)
            chosen = torch.tensor([sequence[place] for sequence in sequences])
            log_pi = log_pi + log_p.gather(1, chosen.unsqueeze(1)).squeeze(1)
            entropy = entropy - (log_p.exp() * log_p).sum(dim=1)
            if place < len(self._embeddings):
                given = embedding(chosen, self._embeddings[place])
        return sequences, log_pi, entropy
