"""What the input and the output of a response are lists of."""

from typing import Annotated, Any, Literal

from pydantic import Field

from nimlite.server.strict import Strict

Status = Literal["in_progress", "completed", "incomplete"]


class InputText(Strict):
    """A text of the client's."""

    type: Literal["input_text"]
    text: str


class OutputText(Strict):
    """A text of an earlier answer."""

    type: Literal["output_text"]
    text: str
    annotations: list[Any] | None = None
    logprobs: list[Any] | None = None


class Refusal(Strict):
    """What an earlier answer would not say."""

    type: Literal["refusal"]
    refusal: str


class Message(Strict):
    """A turn of the conversation."""

    type: Literal["message"] = "message"
    role: Literal["user", "assistant", "system", "developer"]
    content: (
        str
        | Annotated[
            list[Annotated[InputText | OutputText | Refusal, Field(discriminator="type")]],
            Field(fail_fast=True),
        ]
    )
    id: str | None = None
    status: Status | None = None
    phase: str | None = None

    @property
    def text(self) -> str:
        if isinstance(self.content, str):
            return self.content
        return "\n".join(
            part.refusal if isinstance(part, Refusal) else part.text for part in self.content
        )


class FunctionCall(Strict):
    """A call that an earlier answer made."""

    type: Literal["function_call"]
    call_id: str
    name: str
    arguments: str
    id: str | None = None
    status: Status | None = None


class FunctionCallOutput(Strict):
    """What came of a call."""

    type: Literal["function_call_output"]
    call_id: str
    output: str | Annotated[list[InputText], Field(fail_fast=True)]
    id: str | None = None
    status: Status | None = None

    @property
    def text(self) -> str:
        if isinstance(self.output, str):
            return self.output
        return "\n".join(part.text for part in self.output)


class ReasoningText(Strict):
    """Thoughts."""

    type: Literal["reasoning_text"]
    text: str


class ReasoningItem(Strict):
    """What an earlier answer thought."""

    type: Literal["reasoning"]
    id: str | None = None
    summary: list[Any] | None = None
    content: list[ReasoningText] | None = None
    encrypted_content: str | None = None
    status: Status | None = None


InputItem = Message | FunctionCall | FunctionCallOutput | ReasoningItem
