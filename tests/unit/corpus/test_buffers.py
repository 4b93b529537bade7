import numpy as np

from cellfm.corpus.shards import Buffers

KIND = np.dtype(np.uint16)


def test_memory_is_used_again_only_when_nobody_holds_it() -> None:
    buffers = Buffers()
    first = buffers.empty(100, KIND)
    first[:] = 7
    view = first[10:20].view(np.int16)
    address = first.ctypes.data
    del first
    second = buffers.empty(100, KIND)
    second[:] = 1
    assert second.ctypes.data != address  # a view of the first one is left
    assert (view == 7).all()
    del view
    assert buffers.empty(50, KIND).ctypes.data == address


def test_sizes_and_types() -> None:
    buffers = Buffers()
    assert buffers.empty(0, KIND).shape == (0,)
    assert buffers.empty(3, np.dtype(np.uint32)).dtype == np.uint32
    assert buffers.empty(1000, KIND).shape == (1000,)


def test_what_is_too_small_is_let_go() -> None:
    buffers = Buffers()
    for size in (10, 100, 1000):
        buffers.empty(size, KIND)
    assert len(buffers._all) == 1
