"""What both endpoints do with their prompts before the engine sees them."""

from collections.abc import Callable

from nimlite.engine.request import Grammar, SamplingParams
from nimlite.errors import ContextLengthError, RequestError
from nimlite.server.choice import Prompt
from nimlite.server.detokenizer import TextOptions
from nimlite.server.generation import Job
from nimlite.server.output_parser import OutputParser
from nimlite.server.protocol import MAX_PROMPTS, GenerationBody
from nimlite.server.structured import grammar_of
from nimlite.server.thinking_budget import ThinkingBudget


def build_job(
    body: GenerationBody,
    answer_id: str,
    prompts: tuple[Prompt, ...],
    params: SamplingParams,
    *,
    echo: bool = False,
    new_parser: Callable[[], OutputParser | None] = lambda: None,
    shown_ids: frozenset[int] = frozenset(),
    thinking_budget: ThinkingBudget | None = None,
    grammar: Grammar | None = None,
) -> Job:
    """`grammar` None: what the body says about the form of the answer.

    Raises RequestError where prompts and `n` make too many sequences, or where the body gives
    several forms.
    """
    n = body.n or 1
    if len(prompts) * n > MAX_PROMPTS:
        raise RequestError(
            f"{len(prompts)} prompts with 'n' {n} make {len(prompts) * n} sequences; one request "
            f"may have {MAX_PROMPTS}.",
            param="n" if n > 1 else "prompt",
        )
    return Job(
        id=answer_id,
        prompts=prompts,
        n=n,
        params=params,
        text=TextOptions(
            stop=body.stop_strings,
            include_stop=bool(body.include_stop_str_in_output),
            skip_special_tokens=body.skip_special_tokens is not False,
            shown_ids=shown_ids,
            min_tokens=params.min_tokens,
        ),
        new_parser=new_parser,
        thinking_budget=thinking_budget,
        grammar=grammar or grammar_of(body),
        echo=echo,
        priority=body.priority or 0,
        user=body.user or "",
        cache_salt=body.cache_salt or "",
        num_speculative_tokens=body.num_speculative_tokens,
    )


def check_context(
    num_prompt_tokens: int, max_tokens: int | None, max_model_len: int, *, param: str
) -> None:
    """Raises ContextLengthError where prompt and output, at least one token, don't fit."""
    requested = max(max_tokens or 0, 1)
    if num_prompt_tokens + requested <= max_model_len:
        return
    output = "" if max_tokens is None else f" and {max_tokens} for the output"
    raise ContextLengthError(
        f"This model's maximum context length is {max_model_len} tokens, and this request needs "
        f"{num_prompt_tokens} for the prompt{output or ' and at least 1 for the output'}. Shorten "
        f"the prompt or ask for fewer tokens.",
        param=param,
    )
