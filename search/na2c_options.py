"""Options and presets of N-A2C; :mod:`autotune.search.na2c` says what they mean."""

from __future__ import annotations

import math
from dataclasses import dataclass

from autotune.search.options import option, require

_REWARDS = ("gain", "inverse", "throughput")


@dataclass(frozen=True)
class Na2cOptions:
    """Options of N-A2C; the defaults are the preset "default"."""

    start_origin: bool = option(False, "start untiled instead of from the space's defaults")
    random_starts: int = option(4, "random legal configs measured next to the start")
    batch: int = option(6, "new states per collection; only the barrier makes it matter")
    steps: int = option(1, "T: moves per walk")
    max_steps: int = option(6, "T grows to this while nothing improves")
    patience: int = option(24, "results without a new best that make walks one move longer")
    centers: int = option(2, "walks start at one of so many best configs")
    epsilon: float = option(0.1, "chance of a random move instead of the actor's")
    mask: bool = option(True, "neither take nor measure moves that are illegal or lead nowhere")
    features: str = option("log", "states as 'log' of the parts, or as 'ratio' to the extent")
    reward: str = option("gain", "'gain' in rank by a move, 'inverse' (best / cost), 'throughput'")
    hidden: int = option(128, "width of the network")
    learning_rate: float = option(1e-3, "step of Adam")
    gamma: float = option(0.5, "discount of the value of the state reached")
    entropy: float = option(0.1, "weight of the entropy bonus")
    memory: int = option(1000, "transitions kept for replay; 0 learns from each batch once")
    minibatch: int = option(32, "transitions per update")
    updates: int = option(2, "updates per new transition")
    actor_sign: float = option(1.0, "-1 makes good moves less likely, as NNI's code does")
    detach: bool = option(True, "the actor's loss does not train the critic")
    train: bool = option(True, "learn at all; without, the actor keeps its random weights")
    barrier: bool = option(False, "walk only when every pending result has arrived")

    def __post_init__(self) -> None:
        for name in ("batch", "steps", "patience", "centers", "hidden", "minibatch", "updates"):
            require(getattr(self, name) >= 1, f"{name} must be at least 1")
        for name in ("random_starts", "memory"):
            require(getattr(self, name) >= 0, f"{name} must be at least 0")
        require(self.max_steps >= self.steps, "max_steps must not be below steps")
        for name in ("epsilon", "gamma"):
            require(0.0 <= getattr(self, name) <= 1.0, f"{name} must be between 0 and 1")
        require(0.0 <= self.entropy < math.inf, "entropy must be finite and at least 0")
        require(0.0 < self.learning_rate < math.inf, "learning_rate must be positive and finite")
        require(self.actor_sign in (1.0, -1.0), "actor_sign must be 1 or -1")
        require(self.features in ("log", "ratio"), f"unknown features {self.features!r}")
        require(self.reward in _REWARDS, f"reward must be one of {', '.join(_REWARDS)}")


PRESETS: dict[str, dict[str, object]] = {
    "default": {},
    "paper": {
        "start_origin": True,
        "random_starts": 0,
        "centers": 1,
        "steps": 3,
        "max_steps": 3,
        "mask": False,
        "reward": "inverse",
        "entropy": 0.0,
        "gamma": 0.9,
        "updates": 1,
        "barrier": True,
    },
    "nni": {
        "start_origin": True,
        "random_starts": 0,
        "batch": 6,
        "centers": 1,
        "steps": 3,
        "max_steps": 3,
        "mask": False,
        "features": "ratio",
        "reward": "throughput",
        "entropy": 0.0,
        "gamma": 0.0,
        "memory": 0,
        "actor_sign": -1.0,
        "detach": False,
        "barrier": True,
    },
    "frozen-actor": {"train": False},
}
