"""The text that precisions are compared on."""

from pathlib import Path

from tokenizers import Tokenizer

from nimlite.bench.quality import evaluation_prompts
from nimlite.build.checkpoint import open_checkpoint


def test_the_text_has_enough_tokens_in_windows(smollm2_gguf: Path, tmp_path: Path) -> None:
    open_checkpoint(smollm2_gguf).save_tokenizer(tmp_path)
    file = tmp_path / "tokenizer.json"
    prompts = evaluation_prompts(file)
    assert sum(len(prompt) for prompt in prompts) >= 20_000
    assert {len(prompt) for prompt in prompts[:-1]} == {512}
    assert 0 < len(prompts[-1]) <= 512
    begins = Tokenizer.from_file(str(file)).decode(prompts[0])
    assert begins.startswith("In the beginning God created the heaven and the earth.\n")
