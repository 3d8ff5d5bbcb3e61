"""Small random checkpoints with the real classes, ids and prompt of GLM-ASR, for tests and benchmarks."""

from pathlib import Path

import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    GlmAsrConfig,
    GlmAsrForConditionalGeneration,
    GlmAsrProcessor,
    PreTrainedTokenizerFast,
    WhisperFeatureExtractor,
)

VOCABULARY = 59264
SPECIAL_TOKENS = {
    59246: "<|endoftext|>",
    59253: "<|user|>",
    59254: "<|assistant|>",
    59255: "<|observation|>",
    59260: "<|pad|>",
    59261: "<|begin_of_audio|>",
    59262: "<|end_of_audio|>",
}
STOP_IDS = (59246, 59253, 59255)

# Yields the prompt of the published model:
# <|user|>\n<|begin_of_audio|><|pad|><|end_of_audio|><|user|>\nINSTRUCTION<|assistant|>\n
CHAT_TEMPLATE = """{%- for message in messages -%}
{%- for part in message['content'] -%}
{%- if part['type'] == 'audio' -%}
{{- '<|user|>\n<|begin_of_audio|><|pad|><|end_of_audio|>' -}}
{%- else -%}
{{- '<|user|>\n' + part['text'] -}}
{%- endif -%}
{%- endfor -%}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- '<|assistant|>\n' -}}{%- endif -%}"""


def glm_processor() -> GlmAsrProcessor:
    """A byte-level tokenizer with the real special ids, the real chat template and 128 mel bins."""
    vocabulary = {symbol: index for index, symbol in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    vocabulary |= {f"<unused{index}>": index for index in range(len(vocabulary), VOCABULARY)}
    for index, token in SPECIAL_TOKENS.items():
        del vocabulary[f"<unused{index}>"]
        vocabulary[token] = index
    backend = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens([AddedToken(token, special=True) for token in SPECIAL_TOKENS.values()])
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend, pad_token="<|endoftext|>", eos_token="<|endoftext|>", padding_side="left"
    )
    extractor = WhisperFeatureExtractor(feature_size=128, return_attention_mask=True)
    return GlmAsrProcessor(extractor, tokenizer, chat_template=CHAT_TEMPLATE)


def glm_model(seed: int, *, encoder_layers: int = 2, decoder_layers: int = 2) -> GlmAsrForConditionalGeneration:
    """A few narrow layers with random float32 weights that say varied things and stop now and then."""
    torch.manual_seed(seed)
    config = GlmAsrConfig(
        audio_config={
            "hidden_size": 32,
            "intermediate_size": 128,
            "num_hidden_layers": encoder_layers,
            "num_attention_heads": 2,
        },
        text_config={
            "model_type": "llama",
            "hidden_size": 64,
            "intermediate_size": 96,
            "num_hidden_layers": decoder_layers,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "head_dim": 16,
        },
    )
    model = GlmAsrForConditionalGeneration(config).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.dim() > 1:
                # Wide enough that attention and position decide the next token, instead of the last token's embedding.
                parameter.normal_(std=0.02 if "embed_tokens" in name else parameter.shape[-1] ** -0.5 * 1.5)
        model.model.language_model.embed_tokens.weight[list(STOP_IDS)] *= 2.0
    model.generation_config.eos_token_id = list(STOP_IDS)
    model.generation_config.pad_token_id = STOP_IDS[0]
    return model


def save_glm_checkpoint(folder: Path, seed: int = 0) -> Path:
    """A checkpoint folder that loads like the published one."""
    glm_model(seed).save_pretrained(folder)
    glm_processor().save_pretrained(folder)
    return folder
