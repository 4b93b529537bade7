"""Learning rate as a pure function of the step."""

import math

from cellfm.config.pretrain import ScheduleConfig


def learning_rate(step: int, *, peak: float, schedule: ScheduleConfig) -> float:
    r"""Return the rate of a step: linear warm-up, then half a cosine down to the final fraction.

    .. math::
        \eta_t = \eta \cdot \frac{t}{w} \ (t \le w), \qquad
        \eta_t = \eta \cdot \Big(f + (1 - f)\, \tfrac{1}{2}\big(1 + \cos \pi \tfrac{t - w}{n - w}\big)\Big), \qquad t = step + 1

    Parameters
    ----------
    step
        Steps taken before this one; the first is 0, the last ``n_steps - 1``.
    peak
        Rate at the end of the warm-up, η.
    schedule
        Steps n, warm-up w and final fraction f.
    """
    taken, warmup = step + 1, schedule.warmup_steps
    if taken <= warmup:
        return peak * (taken / warmup)
    progress = min(1.0, (taken - warmup) / (schedule.n_steps - warmup))
    cosine = 0.5 * (1.0 + math.cos(math.pi * progress))
    return peak * (schedule.final_fraction + (1.0 - schedule.final_fraction) * cosine)
