"""Learning rate as a pure function of the step."""

import math

from cellfm.config.pretrain import ScheduleConfig


def learning_rate(step: int, *, peak: float, schedule: ScheduleConfig) -> float:
    r"""Return the rate of a step: linear warm-up, then one of two ways down to the final fraction.

    With t = step + 1 steps, warm-up w, n steps in all and final fraction f:

    .. math::
        \eta_t = \eta \cdot \frac{t}{w} \ (t \le w), \qquad \eta_t = \eta \cdot \big(f + (1 - f)\, r_t\big) \ (t > w)

    where r falls from 1 to 0: half a cosine over all the steps after the warm-up (``cosine``),

    .. math:: r_t = \tfrac{1}{2}\Big(1 + \cos \pi \tfrac{t - w}{n - w}\Big),

    or level until the last d steps and linear over these (``wsd``: warm-up, stable, decay; Hu et al. 2024,
    arXiv:2404.06395; linear as in Hägele et al. 2024, arXiv:2405.18392),

    .. math:: r_t = \min\Big(1, \tfrac{n - t}{d}\Big).

    Parameters
    ----------
    step
        Steps taken before this one; the first is 0, the last ``n_steps - 1``.
    peak
        Rate at the end of the warm-up, η.
    schedule
        Kind, n, w, d and f.
    """
    taken, warmup = step + 1, schedule.warmup_steps
    if taken <= warmup:
        return peak * (taken / warmup)
    left = _wsd(taken, schedule) if schedule.kind == "wsd" else _cosine(taken, schedule)
    return peak * (schedule.final_fraction + (1.0 - schedule.final_fraction) * left)


def _cosine(taken: int, schedule: ScheduleConfig) -> float:
    progress = min(
        1.0, (taken - schedule.warmup_steps) / (schedule.n_steps - schedule.warmup_steps)
    )
    return 0.5 * (1.0 + math.cos(math.pi * progress))


def _wsd(taken: int, schedule: ScheduleConfig) -> float:
    if not schedule.decay_steps:
        return 1.0
    return min(1.0, max(0, schedule.n_steps - taken) / schedule.decay_steps)
