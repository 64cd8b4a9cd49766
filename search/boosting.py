"""Gradient-boosted trees as AutoTVM sets them up, on a current xgboost.

Constants: AutoTVM's ``XGBoostCostModel`` (Chen et al., arXiv 1805.08166, and its source).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

#: Rounds at most, and rounds without improvement of the training recall before stopping.
_MAX_ROUNDS, _PATIENCE = 8000, 20
_TREES: dict[str, Any] = {
    "max_depth": 3,
    "gamma": 1e-4,
    "min_child_weight": 1,
    "subsample": 1.0,
    "eta": 0.3,
    "lambda": 1.0,
    "alpha": 0.0,
    "base_score": 0.5,  # the default of 0.80, for every loss
    "verbosity": 0,
    "nthread": 1,  # sums of floats depend on their order: one thread makes runs repeatable
}
#: The pairwise loss without what later versions of xgboost added to it, as 0.80 had it.
_RANK: dict[str, Any] = {
    "objective": "rank:pairwise",
    "lambdarank_pair_method": "mean",
    "lambdarank_num_pair_per_sample": 1,
    "lambdarank_normalization": False,
    "lambdarank_score_normalization": False,
    "ndcg_exp_gain": False,
}
LOSSES = ("rank", "reg")


def average_recall(scores: NDArray[Any], labels: NDArray[Any], top: int) -> float:
    """Return the mean over n = 1..``top`` of the share of the true best n among the predicted."""
    import numpy as np

    top = min(top, len(scores))
    places = np.empty((2, len(scores)), dtype=np.intp)
    for row, values in zip(places, (scores, labels), strict=True):
        row[np.argsort(-values, kind="stable")] = np.arange(len(scores))
    # A config is in both top n from n = 1 + the worse of its two places on.
    hits = np.cumsum(np.bincount(places.max(axis=0), minlength=top)[:top])
    return float(np.mean(hits / np.arange(1, top + 1)))


class BoostedTrees:
    """A cost model: features to a score, higher is faster.

    Parameters
    ----------
    loss
        "rank": pairwise ranking of all results as one group. "reg": squared error.
    top
        n of the training recall that stops the boosting.
    seed
        The ranking loss draws pairs.
    """

    def __init__(self, loss: str, top: int, seed: int) -> None:
        self._top = top
        specific = _RANK if loss == "rank" else {"objective": "reg:squarederror"}
        self._loss = loss
        self._params = {**_TREES, **specific, "seed": seed % 2**31}
        self._booster: Any = None

    def fit(self, features: NDArray[np.float32], fitness: NDArray[np.float64]) -> None:
        """Train from scratch.

        Parameters
        ----------
        features
            Shape ``(n, columns)``.
        fitness
            Shape ``(n,)``; 1 is the fastest, 0 a failure.
        """
        import numpy as np
        import xgboost

        if self._loss == "rank":
            # Relevance labels must be integers now; the loss only uses their order.
            labels = np.unique(fitness, return_inverse=True)[1].astype(np.float32)
            data = xgboost.DMatrix(features, label=labels, qid=np.zeros(len(labels), dtype=int))
        else:
            data = xgboost.DMatrix(features, label=fitness.astype(np.float32))

        def recall(scores: NDArray[Any], _: Any) -> tuple[str, float]:
            return "recall", average_recall(scores, fitness, self._top)

        self._booster = xgboost.train(
            {**self._params, "disable_default_eval_metric": True},
            data,
            num_boost_round=_MAX_ROUNDS,
            evals=[(data, "train")],
            custom_metric=recall,
            callbacks=[
                xgboost.callback.EarlyStopping(
                    rounds=_PATIENCE, metric_name="recall", maximize=True
                )
            ],
            verbose_eval=False,
        )

    def predict(self, features: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return scores, shape ``(n,)``."""
        scores: NDArray[np.float32] = self._booster.inplace_predict(features)
        return scores
