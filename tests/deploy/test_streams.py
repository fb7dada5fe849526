"""The compressed form: every tensor comes back bit for bit, whatever its codes, type and shape."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.errors import refuses
from vitq.deploy.packed.bitpack import pack
from vitq.deploy.packed.compress import compress, expand
from vitq.errors import DeployError

TYPES = (torch.float32, torch.float16, torch.int8, torch.uint8, torch.int16)


@st.composite
def files(draw: st.DrawFn) -> tuple[dict[str, torch.Tensor], dict[str, int]]:
    """Tensors and the bits of those that hold codes; codes from even to all the same, and of any bit pattern."""
    tensors: dict[str, torch.Tensor] = {}
    widths: dict[str, int] = {}
    generator = np.random.default_rng(draw(st.integers(0, 2**32)))
    for place in range(draw(st.integers(0, 4))):
        bits = draw(st.integers(1, 8))
        spread = draw(st.sampled_from([0.0, 0.5, 50.0]))
        count = draw(st.sampled_from([1, 2, 3, 5, 17, 1000]))
        codes = np.clip(np.rint(generator.normal(2 ** (bits - 1), spread, count)), 0, 2**bits - 1)
        tensors[f"codes{place}"] = pack(torch.from_numpy(codes.astype(np.int64)), bits)
        widths[f"codes{place}"] = bits
    for place in range(draw(st.integers(0, 5))):
        dtype = draw(st.sampled_from(TYPES))
        shape = draw(st.lists(st.sampled_from([0, 1, 3, 8]), max_size=3))
        size = int(np.prod(shape)) * dtype.itemsize
        # Any bytes: not-a-numbers with their payload, too.
        raw = torch.from_numpy(np.frombuffer(generator.bytes(size), np.uint8).copy())
        tensors[f"other{place}"] = raw.view(dtype).view(shape) if size else torch.zeros(shape, dtype=dtype)
    return tensors, widths


@settings(max_examples=50, deadline=None)
@given(files())
def test_round_trip(made: tuple[dict[str, torch.Tensor], dict[str, int]]) -> None:
    tensors, widths = made
    header: dict[str, Any] = {"a": ["é", 1.5, None]}
    found_header, found = expand(compress(header, tensors, widths))
    assert found_header == header
    assert set(found) == set(tensors)
    for name, tensor in tensors.items():
        assert found[name].dtype == tensor.dtype
        assert found[name].shape == tensor.shape
        assert found[name].numpy().tobytes() == tensor.numpy().tobytes(), name


@pytest.mark.parametrize("bits", range(2, 9))
def test_codes_come_close_to_their_entropy(bits: int) -> None:
    """Of normally distributed codes, as those of weights are, at most 3 % are lost, and nothing is ever gained back."""
    generator = np.random.default_rng(0)
    codes = np.clip(np.rint(generator.normal(2 ** (bits - 1), 2**bits / 8, 200_000)), 0, 2**bits - 1).astype(np.int64)
    share = np.bincount(codes) / len(codes)
    entropy = -(share[share > 0] * np.log2(share[share > 0])).sum() * len(codes) / 8
    packed = pack(torch.from_numpy(codes), bits)
    size = compress({}, {"w": packed}, {"w": bits})["codes"].numel()
    assert entropy <= size <= 1.03 * entropy
    assert size < packed.numel()


def test_codes_that_cannot_be_smaller_are_left_alone() -> None:
    packed = pack(torch.from_numpy(np.random.default_rng(0).integers(0, 8, 9999)), 3)
    assert compress({}, {"w": packed}, {"w": 3})["codes"].tolist() == packed.tolist()


@pytest.mark.parametrize("stream", ["index", "codes", "rest"])
def test_streams_that_do_not_fit_each_other(stream: str) -> None:
    codes = torch.from_numpy(np.random.default_rng(0).normal(8, 2, 5000).round().clip(0, 15).astype(np.int64))
    streams = compress({}, {"w": pack(codes, 4), "b": torch.randn(50)}, {"w": 4})
    whole = streams[stream]
    for kept in (0, 1, len(whole) // 2):
        with refuses(DeployError, key="streams"):
            expand({**streams, stream: whole[:kept]})
    with refuses(DeployError, key="streams"):
        expand({name: data for name, data in streams.items() if name != stream})
    for place in range(0, len(whole), max(1, len(whole) // 40)):
        changed = whole.clone()
        changed[place] ^= 16
        try:
            _, found = expand({**streams, stream: changed})
        except DeployError:
            continue
        # The sha256 of the file catches what still decodes.
        assert set(found) <= {"w", "b"}
