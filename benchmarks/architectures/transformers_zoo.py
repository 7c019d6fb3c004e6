"""Vision, audio and language architectures of transformers, built from small configs: nothing is downloaded."""

from __future__ import annotations

import functools
import importlib.util
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from architectures.entry import Architecture, Built, fill, image
from architectures.own import tokens


@dataclass(frozen=True)
class Small:
    """A model class, the arguments of its config, and what it reads."""

    model: str
    config: str
    options: dict[str, Any] = field(default_factory=dict)
    inputs: Callable[[], Any] = lambda: image(2, 3, 64, 64)
    answers: tuple[str, ...] = ()
    """The outputs to return; all where empty. What a network returns stays whole: its hidden states, too."""
    features: int = 0
    """Width of the answers where they are features; then a linear layer follows."""


class Chosen(nn.Module):
    """A model that returns some of its outputs only, or classes made of them."""

    def __init__(self, model: nn.Module, small: Small) -> None:
        super().__init__()
        self.model, self.answers = model, small.answers
        self.head = nn.Linear(small.features, 5) if small.features else nn.Identity()

    def forward(self, *args: Any, **kwargs: Any) -> list[Tensor]:
        """The chosen outputs."""
        output = self.model(*args, **kwargs)
        return [self.head(output[name]) for name in self.answers]


PLAIN = {
    "hidden_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 96, "image_size": 64,
    "patch_size": 16,
}  # fmt: skip
SPEECH = {
    "hidden_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 96,
    "conv_dim": (24, 32, 32), "conv_stride": (5, 4, 4), "conv_kernel": (10, 8, 8), "num_feat_extract_layers": 3,
    "num_conv_pos_embeddings": 16, "num_conv_pos_embedding_groups": 4, "apply_spec_augment": False, "vocab_size": 11,
}  # fmt: skip
DECODER = {
    "hidden_size": 48, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "vocab_size": 64, "max_position_embeddings": 32,
}  # fmt: skip
STAGES = {"depths": [1, 1, 2, 1], "hidden_sizes": [16, 24, 32, 48]}
BACKBONE = {
    "backbone_config": {
        "model_type": "resnet", **STAGES, "embedding_size": 16,
        "out_features": ["stage1", "stage2", "stage3", "stage4"],
    },
}  # fmt: skip
PYRAMID = {
    "image_size": 64, "hidden_sizes": [16, 24, 32, 48], "depths": [1, 1, 1, 1], "num_attention_heads": [1, 2, 4, 8],
}  # fmt: skip
WORDS = functools.partial(tokens, 64, 2, 9)
WAVE = functools.partial(image, 2, 3200)


def spectrogram() -> dict[str, Any]:
    """Mel features of a short sound."""
    return {"input_features": image(2, 20, 60)}


def image_and_text() -> dict[str, Any]:
    """An image with words about it."""
    return {"input_ids": WORDS(), "pixel_values": image(2, 3, 64, 64)}


SMALL = {
    "vit": Small("ViTForImageClassification", "ViTConfig", PLAIN),
    "deit": Small("DeiTForImageClassification", "DeiTConfig", PLAIN),
    "beit": Small("BeitForImageClassification", "BeitConfig", {**PLAIN, "use_relative_position_bias": True}),
    "dinov2": Small("Dinov2ForImageClassification", "Dinov2Config", PLAIN),
    "dinov2_swiglu": Small("Dinov2ForImageClassification", "Dinov2Config", {**PLAIN, "use_swiglu_ffn": True}),
    "dinov3_vit": Small("DINOv3ViTModel", "DINOv3ViTConfig", PLAIN, answers=("pooler_output",), features=48),
    "ijepa": Small("IJepaForImageClassification", "IJepaConfig", PLAIN),
    "vit_mae": Small(
        "ViTMAEForPreTraining",
        "ViTMAEConfig",
        {**PLAIN, "decoder_hidden_size": 32, "decoder_num_hidden_layers": 1, "decoder_num_attention_heads": 4,
         "decoder_intermediate_size": 64},
        lambda: {"pixel_values": image(2, 3, 64, 64), "noise": image(2, 16, seed=3)},
    ),
    "swin": Small(
        "SwinForImageClassification",
        "SwinConfig",
        {"image_size": 64, "patch_size": 4, "embed_dim": 24, "depths": [2, 2], "num_heads": [2, 4], "window_size": 4},
    ),
    "swinv2": Small(
        "Swinv2ForImageClassification",
        "Swinv2Config",
        {"image_size": 64, "patch_size": 4, "embed_dim": 24, "depths": [2, 2], "num_heads": [2, 4], "window_size": 4},
    ),
    "convnext": Small("ConvNextForImageClassification", "ConvNextConfig", STAGES),
    "convnextv2": Small("ConvNextV2ForImageClassification", "ConvNextV2Config", STAGES),
    "resnet": Small("ResNetForImageClassification", "ResNetConfig", {**STAGES, "embedding_size": 16}),
    "regnet": Small(
        "RegNetForImageClassification",
        "RegNetConfig",
        {**STAGES, "embedding_size": 16, "groups_width": 8},
    ),
    "mobilenet_v1": Small(
        "MobileNetV1ForImageClassification",
        "MobileNetV1Config",
        {"depth_multiplier": 0.25, "classifier_dropout_prob": 0.0},
    ),
    "mobilenet_v2": Small("MobileNetV2ForImageClassification", "MobileNetV2Config", {"depth_multiplier": 0.35}),
    "mobilevit": Small(
        "MobileViTForImageClassification",
        "MobileViTConfig",
        {"image_size": 64, "hidden_sizes": [24, 32, 48], "neck_hidden_sizes": [8, 16, 24, 32, 40, 48, 64]},
    ),
    "mobilevitv2": Small(
        "MobileViTV2ForImageClassification", "MobileViTV2Config", {"image_size": 64, "width_multiplier": 0.5}
    ),
    "efficientnet": Small(
        "EfficientNetForImageClassification",
        "EfficientNetConfig",
        {"width_coefficient": 0.5, "depth_coefficient": 0.3, "hidden_dim": 640, "image_size": 64},
    ),
    "bit": Small(
        "BitForImageClassification",
        "BitConfig",
        {**STAGES, "embedding_size": 16, "num_groups": 4, "hidden_sizes": [32, 48, 64, 96]},
    ),
    "segformer": Small(
        "SegformerForSemanticSegmentation",
        "SegformerConfig",
        {"hidden_sizes": [16, 24, 32, 48], "depths": [1, 1, 1, 1], "decoder_hidden_size": 32,
         "num_attention_heads": [1, 2, 4, 8]},
    ),
    "pvt": Small(
        "PvtForImageClassification",
        "PvtConfig",
        PYRAMID,
    ),
    "pvt_v2": Small(
        "PvtV2ForImageClassification",
        "PvtV2Config",
        PYRAMID,
    ),
    "poolformer": Small("PoolFormerForImageClassification", "PoolFormerConfig", {**STAGES, "depths": [1, 1, 1, 1]}),
    "levit": Small(
        "LevitForImageClassification",
        "LevitConfig",
        {"image_size": 64, "hidden_sizes": [32, 48, 64], "num_attention_heads": [2, 3, 4], "depths": [1, 1, 1],
         "key_dim": [8, 8, 8]},
    ),
    "cvt": Small(
        "CvtForImageClassification",
        "CvtConfig",
        {"embed_dim": [16, 24, 32], "depth": [1, 2, 3], "num_heads": [1, 2, 4]},
    ),
    "focalnet": Small(
        "FocalNetForImageClassification",
        "FocalNetConfig",
        {"image_size": 64, "embed_dim": 24, "depths": [1, 1, 1, 1]},
    ),
    "dpt": Small(
        "DPTForDepthEstimation",
        "DPTConfig",
        {**PLAIN, "num_hidden_layers": 4, "backbone_out_indices": [0, 1, 2, 3], "neck_hidden_sizes": [16, 24, 32, 40],
         "fusion_hidden_size": 24},
    ),
    "upernet": Small(
        "UperNetForSemanticSegmentation",
        "UperNetConfig",
        {"hidden_size": 32, "auxiliary_channels": 24, "auxiliary_in_channels": 32, "num_labels": 5,
         "pool_scales": [1, 2], **BACKBONE},
    ),
    "yolos": Small(
        "YolosForObjectDetection",
        "YolosConfig",
        {**PLAIN, "image_size": [64, 64], "num_detection_tokens": 7},
        answers=("logits", "pred_boxes"),
    ),
    "detr": Small(
        "DetrForObjectDetection",
        "DetrConfig",
        {"d_model": 32, "encoder_layers": 1, "decoder_layers": 1, "encoder_attention_heads": 4,
         "decoder_attention_heads": 4, "encoder_ffn_dim": 64, "decoder_ffn_dim": 64, "num_queries": 6, **BACKBONE},
        answers=("logits", "pred_boxes"),
    ),
    "clip": Small(
        "CLIPModel",
        "CLIPConfig",
        {"vision_config": {**PLAIN, "projection_dim": 24},
         "text_config": {**DECODER, "projection_dim": 24, "num_key_value_heads": None, "eos_token_id": 63},
         "projection_dim": 24},
        image_and_text,
        answers=("logits_per_image", "logits_per_text"),
    ),
    "siglip": Small("SiglipForImageClassification", "SiglipConfig", {"vision_config": PLAIN}),
    "wav2vec2": Small("Wav2Vec2ForCTC", "Wav2Vec2Config", SPEECH, WAVE),
    "hubert": Small("HubertForCTC", "HubertConfig", SPEECH, WAVE),
    "wavlm": Small("WavLMForCTC", "WavLMConfig", SPEECH, WAVE),
    "sew": Small("SEWForCTC", "SEWConfig", {**SPEECH, "squeeze_factor": 2}, WAVE),
    "whisper_encoder": Small(
        "WhisperEncoder",
        "WhisperConfig",
        {"d_model": 48, "encoder_layers": 2, "encoder_attention_heads": 4, "encoder_ffn_dim": 96,
         "max_source_positions": 30, "num_mel_bins": 20},
        spectrogram,
    ),
    "ast": Small(
        "ASTForAudioClassification",
        "ASTConfig",
        {**PLAIN, "num_mel_bins": 32, "max_length": 48, "frequency_stride": 10, "time_stride": 10},
        functools.partial(image, 2, 48, 32),
    ),
    "llama": Small("LlamaForCausalLM", "LlamaConfig", DECODER, WORDS),
    "gemma2": Small("Gemma2ForCausalLM", "Gemma2Config", {**DECODER, "head_dim": 12}, WORDS),
    "qwen3": Small("Qwen3ForCausalLM", "Qwen3Config", {**DECODER, "head_dim": 12}, WORDS),
    "gpt2": Small("GPT2LMHeadModel", "GPT2Config", {"n_embd": 48, "n_layer": 2, "n_head": 4, "vocab_size": 64}, WORDS),
    "bert": Small("BertForSequenceClassification", "BertConfig", {**DECODER, "num_key_value_heads": None}, WORDS),
}  # fmt: skip


def transformers_architectures() -> list[Architecture]:
    """One small model per architecture; none where transformers is not installed."""
    if importlib.util.find_spec("transformers") is None:
        return []
    return [Architecture(f"transformers/{name}", functools.partial(build, name)) for name in SMALL]


def build(name: str) -> Built:
    """The small model of this name and inputs; without a cache of keys, whose objects no output needs."""
    import transformers

    small = SMALL[name]
    config = getattr(transformers, small.config)(**small.options)
    if hasattr(config, "use_cache"):
        config.use_cache = False
    torch.manual_seed(0)
    model = getattr(_module_of(small.model), small.model)(config)
    return fill(Chosen(model, small) if small.answers else model), small.inputs()


def _module_of(model: str) -> Any:
    """Where the class is: some parts of a model are not exported at the top."""
    import transformers

    if hasattr(transformers, model):
        return transformers
    from transformers.models.whisper import modeling_whisper

    return modeling_whisper
