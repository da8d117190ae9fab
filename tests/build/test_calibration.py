"""The text that activations are measured on."""

from pathlib import Path

from nimlite.bench.quality import evaluation_prompts
from nimlite.build.calibration import calibration_texts, default_text
from nimlite.build.checkpoint import open_checkpoint


def test_the_default_text_is_long_enough_and_no_part_of_the_judged_one(
    smollm2_gguf: Path, tmp_path: Path
) -> None:
    open_checkpoint(smollm2_gguf).save_tokenizer(tmp_path)
    file = tmp_path / "tokenizer.json"
    texts = calibration_texts(file, default_text(), 8192)
    assert [len(text) for text in texts] == [512] * 16
    judged = {tuple(prompt[i : i + 32]) for prompt in evaluation_prompts(file) for i in range(480)}
    assert not any(tuple(text[i : i + 32]) in judged for text in texts for i in range(480))
