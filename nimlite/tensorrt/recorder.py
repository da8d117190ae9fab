"""What TensorRT says of its errors."""

from types import ModuleType
from typing import Any


def error_recorder(trt: ModuleType) -> Any:
    """Keeps what a builder or a runtime says of its errors, in `descriptions`.

    A logger would not do: TensorRT uses a process's first one for all.
    """

    class Recorder(trt.IErrorRecorder):  # type: ignore[name-defined, misc]
        def __init__(self) -> None:
            super().__init__()
            self.descriptions: list[str] = []
            self._codes: list[Any] = []

        def num_errors(self) -> int:
            return len(self.descriptions)

        def get_error_code(self, index: int) -> Any:
            return self._codes[index]

        def get_error_desc(self, index: int) -> str:
            return self.descriptions[index]

        def has_overflowed(self) -> bool:
            return False

        def clear(self) -> None:
            self.descriptions.clear()
            self._codes.clear()

        def report_error(self, code: Any, description: str) -> bool:
            self._codes.append(code)
            self.descriptions.append(description)
            return False

    return Recorder()
