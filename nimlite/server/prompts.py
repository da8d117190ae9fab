"""What both endpoints do with their prompts before the engine sees them."""

from collections.abc import Callable

from nimlite.engine.request import Grammar, SamplingParams
from nimlite.errors import ContextLengthError, RequestError
from nimlite.server.best_of import beam_search_of
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
    num_samples = max(n, body.best_of or 0)
    if len(prompts) * num_samples > MAX_PROMPTS:
        name = "n" if num_samples == n else "best_of"
        raise RequestError(
            f"{len(prompts)} prompts with '{name}' {num_samples} make"
            f" {len(prompts) * num_samples} sequences; one request may have {MAX_PROMPTS}.",
            param=name if num_samples > 1 else "prompt",
        )
    grammar = grammar or grammar_of(body)
    beam_search = beam_search_of(body)
    if beam_search is not None and (grammar is not None or thinking_budget is not None):
        raise RequestError(
            "'use_beam_search' can't be combined with a form of the answer, a call that must be"
            " made, or a budget of thought: leave one of them out.",
            param="use_beam_search",
        )
    return Job(
        id=answer_id,
        prompts=prompts,
        n=n,
        best_of=n if beam_search else num_samples,
        beam_search=beam_search,
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
        grammar=grammar,
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
