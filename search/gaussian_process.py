"""A Gaussian process over the vertices of a product of graphs.

The covariance of two configs is, up to the signal's variance,

    k(x, y) = prod_p (1 + b_p * k_p(x_p, y_p)) / (1 + b_p)

with a kernel ``k_p`` per parameter (:mod:`autotune.search.kernels_diffusion`). Multiplied out, it
is a sum over all sets of parameters of their interactions: small weights ``b_p`` mean effects that
add up, large ones the pure product of COMBO (arXiv 1902.00448); HyBO (arXiv 2106.04682) sums the
same terms by order. Diffusion times, weights and noise maximise the marginal likelihood times
log-normal priors, which keep a handful of results from being explained by one parameter.

Optional columns ``prior`` add ``w * prior(x) . prior(y)``: guesses of the costs made elsewhere, of
which the data decide the share, and the sign.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from autotune.search.kernels_diffusion import ParameterKernel

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

#: Added to the diagonal, relative to the signal's variance.
_JITTER = 1e-6
#: Priors of the logarithms, deviations: of times and weights; of noise; of the prior's share, which
#: must be free to vanish when the prior misleads.
_SPREAD, _NOISE_SPREAD, _SHARE_SPREAD = 1.0, 1.5, 2.5
#: Median of the noise's variance relative to the signal's: one in a hundred of it, in seconds.
_LOG_NOISE = math.log(0.01)
#: Median of the share of the prior columns: as much as all the rest.
_LOG_SHARE = 0.0
#: The signal's variance is estimated as if so many more targets had been seen, of variance one.
_VARIANCE_WEIGHT = 2.0
_BOUND = 5.0
_TINY_VARIANCE = 1e-9


class GaussianProcess:
    """Posterior over standardised costs; lower is better.

    Parameters
    ----------
    kernels
        One per column of the codes.
    with_prior
        Whether prior columns come with the codes.
    """

    def __init__(self, kernels: Sequence[ParameterKernel], with_prior: bool = False) -> None:
        import numpy as np

        self._kernels = kernels
        self._with_prior = with_prior
        times = [kernel.log_time for kernel in kernels]
        rest = ([_LOG_SHARE] if with_prior else []) + [_LOG_NOISE]
        self._center = np.array([*times, *(0.0 for _ in times), *rest])
        self._spread = np.full(len(self._center), _SPREAD)
        self._spread[-1] = _NOISE_SPREAD
        if with_prior:
            self._spread[-2] = _SHARE_SPREAD
        self._theta = self._center.copy()
        self._tables: dict[tuple[int, bytes], NDArray[np.float64]] = {}

    # ---- hyper-parameters ----------------------------------------------------------------------

    def fit(
        self,
        codes: NDArray[np.intp],
        targets: NDArray[np.float64],
        iterations: int,
        prior: NDArray[np.float64] | None = None,
    ) -> float:
        """Improve the hyper-parameters, from where they are; return the negative log posterior.

        Parameters
        ----------
        codes
            Shape ``(n, parameters)``.
        targets
            Shape ``(n,)``.
        prior
            Shape ``(n, guesses)``.
        iterations
            Steps of L-BFGS, at most.
        """
        from scipy import optimize

        columns = [_Column(column) for column in codes.T]
        found = optimize.minimize(
            lambda theta: self._loss(theta, columns, targets, prior),
            self._theta,
            jac=True,
            method="L-BFGS-B",
            bounds=[(center - _BOUND, center + _BOUND) for center in self._center],
            options={"maxiter": iterations},
        )
        self._theta = found.x
        self._tables.clear()
        return float(found.fun)

    def _loss(
        self,
        theta: NDArray[np.float64],
        columns: Sequence[_Column],
        targets: NDArray[np.float64],
        prior: NDArray[np.float64] | None,
    ) -> tuple[float, NDArray[np.float64]]:
        """Return the negative log posterior of ``theta``, its gradient; the variance profiled."""
        import numpy as np
        from scipy import linalg

        n = len(targets)
        log_kernel = np.zeros((n, n))
        slopes = []
        for p, column in enumerate(columns):
            table, by_time, by_weight = self._factor(theta, p, column.values, column.values)
            log_kernel += table.take(column.places, axis=1).take(column.places, axis=0)
            slopes.append((by_time, by_weight))
        product = np.exp(log_kernel)
        share, noise = math.exp(theta[-2]) if self._with_prior else 0.0, math.exp(theta[-1])
        matrix = product.copy()
        matrix[np.diag_indices(n)] += noise + _JITTER
        if prior is not None:
            matrix += share * (prior @ prior.T)
        try:
            factor = linalg.cholesky(matrix, lower=True, check_finite=False)
        except linalg.LinAlgError:
            return 1e10, np.zeros_like(theta)
        inverse = linalg.cho_solve((factor, True), np.eye(n), check_finite=False)
        weights = inverse @ targets
        variance = _variance(targets, weights)
        count = n + _VARIANCE_WEIGHT
        loss = 0.5 * count * math.log(variance) + float(np.log(np.diag(factor)).sum())
        outer = 0.5 * (inverse - np.outer(weights, weights) / variance)
        gradient = np.zeros_like(theta)
        by_entry = outer * product
        for p, (column, (by_time, by_weight)) in enumerate(zip(columns, slopes, strict=True)):
            # Entries that belong to the same two values share one derivative.
            pairs = column.member.T @ by_entry @ column.member
            gradient[p] = float((pairs * by_time).sum())
            gradient[len(columns) + p] = float((pairs * by_weight).sum())
        if prior is not None:
            gradient[-2] = share * float((prior * (outer @ prior)).sum())
        gradient[-1] = noise * float(np.trace(outer))
        away = (theta - self._center) / self._spread
        return loss + 0.5 * float(away @ away), gradient + away / self._spread

    def _factor(
        self,
        theta: NDArray[np.float64],
        p: int,
        rows: NDArray[np.intp],
        columns: NDArray[np.intp],
    ) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
        """Return the log of a parameter's factor and its derivatives by log time, log weight."""
        import numpy as np

        kernel, slope = self._kernels[p].correlation(theta[p], rows, columns)
        weight = math.exp(theta[len(self._kernels) + p])
        sums = 1.0 + weight * kernel
        by_weight = weight * (kernel / sums - 1.0 / (1.0 + weight))
        return np.log(sums / (1.0 + weight)), weight * slope / sums, by_weight

    # ---- posterior -----------------------------------------------------------------------------

    def condition(
        self,
        codes: NDArray[np.intp],
        targets: NDArray[np.float64],
        prior: NDArray[np.float64] | None = None,
    ) -> None:
        """Take the results to predict from; shapes as for :meth:`fit`."""
        import numpy as np
        from scipy import linalg

        self._columns = [_Column(column) for column in codes.T]
        self._tables.clear()
        self._prior = prior
        matrix = self._covariance(codes, prior)
        matrix[np.diag_indices(len(targets))] += math.exp(self._theta[-1]) + _JITTER
        self._chol = linalg.cholesky(matrix, lower=True, check_finite=False)
        self._weights = linalg.cho_solve((self._chol, True), targets, check_finite=False)
        self._variance = _variance(targets, self._weights)

    def _covariance(
        self, codes: NDArray[np.intp], prior: NDArray[np.float64] | None
    ) -> NDArray[np.float64]:
        """Return covariances with the conditioning configs, shape ``(rows of codes, n)``."""
        import numpy as np

        total = np.zeros((len(codes), len(self._columns[0].places)))
        for p, rows in enumerate(map(_Column, codes.T)):
            total += self._table(p, rows.values).take(rows.places, axis=0)
        np.exp(total, out=total)
        if prior is not None and self._prior is not None:
            total += math.exp(self._theta[-2]) * (prior @ self._prior.T)
        return total

    def _table(self, p: int, rows: NDArray[np.intp]) -> NDArray[np.float64]:
        """Return the log of a parameter's factor, between ``rows`` and the conditioning configs.

        Many candidates are compared with the same configs, and they have few values.
        """
        key = p, rows.tobytes()
        table = self._tables.get(key)
        if table is None:
            column = self._columns[p]
            small = self._factor(self._theta, p, rows, column.values)[0]
            table = self._tables[key] = small.take(column.places, axis=1)
        return table

    def mean(
        self, codes: NDArray[np.intp], prior: NDArray[np.float64] | None = None
    ) -> NDArray[np.float64]:
        """Return what :meth:`predict` does, but the means only, which cost less."""
        means: NDArray[np.float64] = self._covariance(codes, prior) @ self._weights
        return means

    def predict(
        self, codes: NDArray[np.intp], prior: NDArray[np.float64] | None = None
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return means and standard deviations, without noise, shape ``(rows of codes,)`` each."""
        import numpy as np
        from scipy import linalg

        cross = self._covariance(codes, prior)
        solved = linalg.solve_triangular(self._chol, cross.T, lower=True, check_finite=False)
        own = 1.0 if prior is None else 1.0 + math.exp(self._theta[-2]) * (prior**2).sum(axis=1)
        variance = np.maximum(own - (solved**2).sum(axis=0), _TINY_VARIANCE)
        return cross @ self._weights, np.sqrt(variance * self._variance)


def _variance(targets: NDArray[np.float64], weights: NDArray[np.float64]) -> float:
    """Return the signal's variance; ``weights`` solve the covariance, in units of it, for targets.

    The mode under an inverse gamma prior, which keeps two or three targets from deciding alone.
    """
    return (float(targets @ weights) + _VARIANCE_WEIGHT) / (len(targets) + _VARIANCE_WEIGHT)


class _Column:
    """The codes of one parameter: distinct values, and for each entry its place among them."""

    def __init__(self, codes: NDArray[np.intp]) -> None:
        import numpy as np

        # As numpy.unique would, but codes are small, so nothing need be sorted.
        there = np.zeros(int(codes.max(initial=0)) + 1, dtype=bool)
        there[codes] = True
        self.values = np.flatnonzero(there)
        self.places = (there.cumsum() - 1)[codes]

    @functools.cached_property
    def member(self) -> NDArray[np.float64]:
        """One where an entry has a value, else zero; shape ``(entries, values)``."""
        import numpy as np

        member = np.zeros((len(self.places), len(self.values)))
        member[np.arange(len(self.places)), self.places] = 1.0
        return member
