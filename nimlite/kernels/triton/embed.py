"""Rows of a table by index: the embedding's, or a step's wanted ones."""

import torch
import triton
import triton.language as tl

from nimlite.kernels.triton.device import Device, await_inputs
from nimlite.kernels.triton.scaled_rows import row_block


@triton.jit
def _embed(
    ids_ptr,
    table_ptr,
    x_ptr,
    scale,
    first,
    num_rows,
    num_columns,
    BLOCK: tl.constexpr,
    OVERLAP: tl.constexpr,
):
    row = tl.program_id(0)
    columns = tl.arange(0, BLOCK)
    mask = columns < num_columns
    await_inputs(OVERLAP)
    token = tl.load(ids_ptr + row).to(tl.int64)
    here = mask
    if first is not None:
        token -= first
        here = mask & (token >= 0) & (token < num_rows)
    x = tl.load(table_ptr + token * num_columns + columns, mask=here, other=0.0)
    if scale is not None:
        x = x.to(tl.float32) * scale
    tl.store(x_ptr + row.to(tl.int64) * num_columns + columns, x, mask=mask)


def embed(
    table_VD: torch.Tensor,
    token_ids_T: torch.Tensor,
    device: Device,
    dtype: torch.dtype | None = None,
    scale: float | None = None,
    first: int | None = None,
) -> torch.Tensor:
    """Rows of the table, times `scale`: x_TD in `dtype` (the table's, if None). `first`: the table
    begins with that token and lacks others, whose rows are zero; None: it has all."""
    assert table_VD.is_contiguous()
    num_columns = table_VD.shape[1]
    x_TD = table_VD.new_empty((len(token_ids_T), num_columns), dtype=dtype)
    _embed[(len(token_ids_T),)](
        token_ids_T,
        table_VD,
        x_TD,
        scale,
        first,
        len(table_VD),
        num_columns,
        **row_block(num_columns),
        OVERLAP=device.overlaps_launches,
        **device.launch_options,
    )
    return x_TD
