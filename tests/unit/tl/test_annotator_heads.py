import numpy as np

from cellfm.tl._annotator_heads import _one_label, fit_probe
from cellfm.tl._labels import Labels


def test_labels_that_choose_their_own_scaling_are_read_together_as_each_alone() -> None:
    rng = np.random.default_rng(0)
    x = (rng.normal(size=(240, 6)) * [1, 1, 1, 1, 30, 0.02] + 2).astype(np.float32)
    code = np.stack([np.zeros(240), x[:, 5] > 2, x[:, 0] + x[:, 1] > 4], axis=1).astype(np.int64)
    labels = Labels(
        name="state", classes=("none", "small", "sum"), code=code, separator=";", n_missing=0
    )
    joint = fit_probe(x, labels, np.arange(240), seed=0).logits(x)
    alone = [_one_label(x, flag, seed=0) for flag in code.T]
    assert {part.scaling for part in alone} == {"feature", "common"}
    expected = np.concatenate([part.logits(x) for part in alone], axis=1)
    np.testing.assert_allclose(joint, expected, atol=1e-2, rtol=1e-3)
    assert (joint[:, 0] < 0).all()
    assert ((joint[:, 1] > 0) == (code[:, 1] == 1)).mean() > 0.9
