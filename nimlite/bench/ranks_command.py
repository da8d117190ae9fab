"""`nimlite bench ranks`. Nothing of torch is imported before it runs."""

from typing import Annotated

import typer


def ranks(
    of: Annotated[
        list[str] | None,
        typer.Option(help="Shape, precision, tp and pp, such as 8b:fp8:2:1; repeatable."),
    ] = None,
    seconds: Annotated[float, typer.Option(help="That one of them may take.")] = 120,
    all_reduce: Annotated[bool, typer.Option(help="Time NCCL's all-reduce, too.")] = True,
) -> None:
    """A model of random weights over two GPUs: how long a decode step takes, beside one GPU's."""
    from nimlite.bench.ranks import run_all_reduce, run_ranks

    splits = ("1:1", "2:1", "1:2")
    wanted = of or [f"{model}:{split}" for model in ("8b:fp8", "70b:fp8") for split in splits]
    if all_reduce:
        typer.echo(run_all_reduce(seconds=seconds))
    typer.echo("\n".join(run_ranks(wanted, seconds=seconds, say=typer.echo)))
