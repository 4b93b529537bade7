"""From count matrices to :class:`~cellfm.batch.CellBatch`: rows, count checks, tokens, masks, samples."""
