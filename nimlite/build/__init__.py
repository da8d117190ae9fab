"""From a checkpoint to a sealed engine directory.

checkpoint.py   what a build reads: Hugging Face directories (huggingface.py), GGUF files (gguf.py),
                random weights (random.py); tokenizers in tokenizer_files.py, gguf_tokenizer.py
convert.py      fuse, shard, pack                 weights_file.py  rankN.safetensors
selftest.py     the engine against reference.py   quality.py       what the comparison found
engine_dir.py   the directory: seal and open      builder.py       all of it, under a lock
"""
