"""The network: tensors in, tensors out."""

from cellfm.nn.encoder import CellFM, States
from cellfm.nn.initialise import initialise
from cellfm.nn.loss import Loss, masked_expression_loss
from cellfm.nn.primitives import merge_lora

__all__ = ["CellFM", "Loss", "States", "initialise", "masked_expression_loss", "merge_lora"]
