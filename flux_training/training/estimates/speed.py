"""The constants that are fitted to public figures of training steps, all of them at once.

tests/training/estimates/public_figures.csv has the figures; the test beside it fits the constants again and compares them with these.
Decision 0063 says what each one stands for.
"""

from dataclasses import dataclass

from flux_training.training.estimates.ranges import Range


@dataclass(frozen=True)
class SpeedFit:
    """`step`: how much longer than at the GPU's rate a step takes without quantization. `quantized`, `offloaded`: how much longer still.

    `equal_width`: norms, activations and positions cost time in proportion to a token's width, matrices in proportion to its square; at
    this width, both cost the same. `batch_exponent`: a batch of n images takes as long as n to this power. `block_seconds`: in which
    the CPU starts a block, which limits small steps.
    """

    step: Range
    quantized: float
    offloaded: Range
    equal_width: float
    batch_exponent: float
    block_seconds: Range


# `offloaded` is fitted to only two measurements, and `block_seconds` only to those of the H100.
SPEED = SpeedFit(
    step=Range(0.29, 0.41, 0.58),
    quantized=1.2,
    offloaded=Range(1.4, 2.8, 5.6),
    equal_width=5200,
    batch_exponent=0.9,
    block_seconds=Range(0.0025, 0.0035, 0.005),
)
