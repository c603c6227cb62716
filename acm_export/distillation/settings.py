"""Settings of a distillation run."""

from __future__ import annotations

from dataclasses import dataclass

from acm_export.base.errors import UsageError

ANY_BUDGET, PAPER = "any-budget", "paper"
TEACHER, RANDOM = "teacher", "random"


@dataclass(frozen=True)
class AcmizeSettings:
    """Everything that determines the result, apart from the teacher and the data.

    Args:
        sites: Modules to replace, in the syntax of :func:`acm_export.surgery.select_sites`.
        num_learners: N, learners per layer.
        flops_factor: FLOPs of all learners ÷ FLOPs of the dense modules.
        min_learners: Learners that always run; None for 0 under a residual connection and 1 elsewhere.
        recipe: ``any-budget`` trains a model for all thresholds; ``paper`` trains one for ``budget``, as published.
        init: Initial learners: ``teacher`` (the teacher's neurons) or ``random``; None for the recipe's default.
        budget: Target β of the recipe ``paper``.
        steps: Steps of the three phases; 0 skips a phase.
        batch: Samples per step, in all processes together.
        learning_rates: Peak learning rates of the three phases.
        task: ``classification``, ``ctc``, ``distil``, or ``module:function``; None for the task of the architecture.
        seed: Seed of all random numbers.
        checkpoint_every: Steps between saved states; an interrupted run resumes from the last one.
        mixed_precision: ``no``, ``fp16`` or ``bf16``.

    Raises:
        UsageError: A value is out of range, or two contradict each other.
    """

    sites: str = "ffn"
    num_learners: int = 4
    flops_factor: float = 1.0
    min_learners: int | None = None
    recipe: str = ANY_BUDGET
    init: str | None = None
    budget: float | None = None
    steps: tuple[int, int, int] = (1000, 500, 2000)
    batch: int = 32
    learning_rates: tuple[float, float, float] = (1e-3, 1e-3, 1e-4)
    task: str | None = None
    seed: int = 0
    checkpoint_every: int = 200
    mixed_precision: str = "no"

    def __post_init__(self) -> None:
        if self.recipe not in (ANY_BUDGET, PAPER):
            raise UsageError(f"the recipe is {self.recipe!r}; it must be {ANY_BUDGET} or {PAPER}")
        if self.init not in (None, TEACHER, RANDOM):
            raise UsageError(f"init is {self.init!r}; it must be {TEACHER} or {RANDOM}")
        if self.recipe == PAPER and self.budget is None:
            raise UsageError(f"the recipe {PAPER} trains a model for one budget", "set it, for example: --budget 0.5")
        if self.recipe != PAPER and self.budget is not None:
            raise UsageError(
                f"the budget is {self.budget}, but the recipe {self.recipe} trains a model for every budget",
                f"leave out --budget, or use --recipe {PAPER} to train for one budget",
            )
        if self.budget is not None and not 0 < self.budget <= 1:
            raise UsageError(f"the budget is {self.budget}; it must be above 0 and at most 1")
        self._check_training()

    def _check_training(self) -> None:
        if len(self.steps) != 3 or min(self.steps) < 0:
            raise UsageError(f"the steps are {self.steps}; expected three integers, 0 to skip a phase")
        if len(self.learning_rates) != 3 or not all(0 < rate < 1 for rate in self.learning_rates):
            raise UsageError(f"the learning rates are {self.learning_rates}; expected three numbers between 0 and 1")
        if self.batch < 1 or self.checkpoint_every < 1:
            raise UsageError(
                f"batch is {self.batch} and checkpoint_every is {self.checkpoint_every}; both must be at least 1"
            )

        if self.mixed_precision not in ("no", "fp16", "bf16"):
            raise UsageError(f"mixed_precision is {self.mixed_precision!r}; it must be no, fp16 or bf16")
        if not 0 <= self.seed <= 2**62:
            raise UsageError(f"the seed is {self.seed}; it must be from 0 to 2^62")

    @property
    def origin(self) -> str:
        """Where the initial learners come from: ``teacher`` or ``random``."""
        return self.init or (TEACHER if self.recipe == ANY_BUDGET else RANDOM)
