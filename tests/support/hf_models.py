"""Small models in Hugging Face folders, with weights of chance.

The output of the language model is its input embedding, so that it repeats the last token of a prompt whatever the
numbers are rounded to: other weights of chance have many tokens that are nearly as likely as the likeliest.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

CONTEXT = 512
TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
PAD, _, END = CONTROL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")


def make_language_model(
    folder: Path, *, hidden: int = 64, layers: int = 2, template: str | None = TEMPLATE, **config: Any
) -> Path:
    """Write a language model and its tokenizer to a folder."""
    import torch
    from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM

    tokenizer = _tokenizer(template)
    size = len(tokenizer)
    torch.manual_seed(0)
    shape = {
        "hidden_size": hidden,
        "intermediate_size": 2 * hidden,
        "num_hidden_layers": layers,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": CONTEXT,
    }
    model = LlamaForCausalLM(LlamaConfig(vocab_size=size, tie_word_embeddings=True, **(shape | config)))
    model.generation_config = GenerationConfig(eos_token_id=tokenizer.eos_token_id, pad_token_id=0)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def teach(folder: Path, prompt: str, answer: str, steps: int = 200) -> None:
    """Train the language model in a folder until it answers a prompt, which is encoded as it is, by this text."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer, model = AutoTokenizer.from_pretrained(folder), AutoModelForCausalLM.from_pretrained(folder)
    asked, said = tokenizer(prompt)["input_ids"], tokenizer(answer)["input_ids"]
    tokens, labels = torch.tensor([asked + said]), torch.tensor([[-100] * len(asked) + said])
    optimizer = torch.optim.Adam(model.parameters(), lr=0.003)
    for _ in range(steps):
        optimizer.zero_grad()
        loss = model(input_ids=tokens, labels=labels).loss
        loss.backward()
        optimizer.step()
        if loss < 0.01:
            break
    model.save_pretrained(folder)


def make_embedding_model(folder: Path, *, hidden: int = 64, layers: int = 2) -> Path:
    """Write an embedding model and its tokenizer to a folder."""
    import torch
    from transformers import BertConfig, BertModel

    tokenizer = _tokenizer(None)
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(tokenizer),
        hidden_size=hidden,
        intermediate_size=4 * hidden,
        num_hidden_layers=layers,
        num_attention_heads=4,
        max_position_embeddings=CONTEXT,
        pad_token_id=tokenizer.pad_token_id,
    )
    BertModel(config).save_pretrained(folder)
    tokenizer.model_max_length = CONTEXT
    tokenizer.save_pretrained(folder)
    return folder


def _tokenizer(template: str | None) -> Any:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=list(CONTROL),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator([Path(__file__).read_text()], trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token=END, pad_token=PAD, chat_template=template)


if __name__ == "__main__":  # larger ones, below a folder: `benchmarks/gpu_tree.py` takes them to another machine
    make_language_model(Path(sys.argv[1]) / "language", hidden=256, layers=4, max_position_embeddings=2048)
    make_embedding_model(Path(sys.argv[1]) / "embedding", hidden=256, layers=4)
