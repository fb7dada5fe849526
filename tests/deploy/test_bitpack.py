"""Bit-packing: exact round trip, exact size, nothing out of range."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.errors import refuses
from vitq.deploy.packed.bitpack import pack, packed_bytes, unpack


@given(bits=st.integers(1, 8), data=st.data())
def test_round_trip_and_size(bits: int, data: st.DataObject) -> None:
    values = data.draw(st.lists(st.integers(0, 2**bits - 1), max_size=70))
    packed = pack(torch.tensor(values, dtype=torch.int64), bits)
    assert packed.dtype == torch.uint8
    assert packed.numel() == packed_bytes(len(values), bits) == -(-len(values) * bits // 8)
    assert unpack(packed, bits, len(values)).tolist() == values


def test_the_first_code_has_the_highest_bits() -> None:
    assert pack(torch.tensor([[0b101, 0b001], [0b111, 0b000]]), 3).tolist() == [0b10100111, 0b10000000]


@pytest.mark.parametrize("codes", [[8], [-1]])
def test_codes_out_of_range(codes: list[int]) -> None:
    with refuses(ValueError, key="codes", value=(*codes, *codes)):
        pack(torch.tensor(codes), 3)


def test_wrong_length() -> None:
    with refuses(ValueError, key="packed", value=3, valid=[2]):
        unpack(torch.zeros(3, dtype=torch.uint8), 3, 5)
