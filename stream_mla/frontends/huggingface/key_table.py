"""It says what each key of a config means for attention: whether it can be ignored, is noted, or is refused.

Keys that the reader takes sizes and layers from are not here; it remembers which it asked for. Of the others, a key
that speaks of attention (`SPEAKS_OF_ATTENTION`) is harmless only if it is listed by name. A key that is in no table is
named in the notes of the model, so that nothing is read out of silence.

Harmless, for they leave shapes and work as they are: sizes of other layers (vocabulary, feed-forward, experts, state
space and linear-attention layers), tokens, training, factors on scores and outputs, the angles of RoPE, and biases of
the projections (one row beside thousands).
"""

import re
from collections.abc import Mapping
from typing import cast

SPEAKS_OF_ATTENTION = re.compile(
    r"attn|attention|head|kv|key|value|query|qk|window|sliding|rope|rotary|alibi|mask|causal|bidirection|lora|latent|rank"
    r"|sparse|chunk|cross|layer_types|pattern|interval|period|gate|group|share|compress"
)
"""Keys that may change the shape or the work of attention."""

HARMLESS = re.compile(
    r"_.*|architectures|auto_map|model_type|transformers_version|id2label|label2id|problem_type|return_dict.*|output_.*"
    r"|.*token_?ids?|.*_tokens?|.*token_index|.*vocab.*|.*dropout.*|.*_pdrop|layerdrop|init\w*|.*init|.*_std.*|lambda_.*"
    r"|.*eps(ilon)?|.*norm.*|hidden_act.*|activation.*|.*_act|afn|mamba.*|ssm_.*|conv.*|time_step_.*|expand|.*state_size"
    r"|.*intermediate.*|.*ffn?_.*|ff_.*|ffn?_dim|n_inner|dff|.*mlp.*|.*moe.*|.*expert.*|topk_.*|.*router?.*|scoring_func"
    r"|.*aux_loss.*|.*z_loss.*|tie_.*|tied.*|pretraining_tp|max_.*position.*|.*_positions|n_ctx|max_seq.*|seq_length"
    r"|model_max_length|.*bias|.*multipliers?|.*scal(e|ing)(_.*)?|scale_.*|logits?_.*|.*logit_.*|use_cache|mup.*|depth"
    r"|.*dtype|.*quantization.*|quantize.*|torchscript|use_bfloat16|bf16|fp16|fp32|finetuning_task|task_specific_params"
    r"|prefix|pruned_heads|name|license|use_mem.*|use_kernels?|use_parallel_residual|.*residual.*|altup_.*|laurel_.*"
    r"|mtp_.*|num_(mtp|nextn).*|classifier.*|summary_.*|pad_.*|top_[kp]|temperature|do_sample|min_length|max_length"
    r"|num_beams.*|length_penalty|repetition_penalty|early_stopping|add_bias_linear|n_shared_.*|n_routed_.*|n_groups?"
    r"|first_k_dense_replace|decoder_sparse_step|is_moe|use_fused.*|fused.*|.*kernel.*|lru_width|w_init.*|final_w_.*"
    r"|dim_model_base|embed.*|emb_.*|embd_.*|hidden_size_per_layer_input|word_embed_proj_dim|do_layer.*|max_batch_size"
    r"|distributed.*|device.*|verbose|learned_pos_emb|tokenizer_class|adapter.*|peft.*|onnx.*|unsloth.*|block_(multiple_of"
    r"|auto.*|dim|ff.*)|enable_.*|slow_but_exact|n_layer_mtp|expansion_ratio|rescale_.*|hc_.*|num_codebooks|vision.*|image.*|video.*"
    r"|audio.*|mm_.*|.*projector.*|spatial_.*|temporal_.*|patch.*|trust_remote_code|revision|version"
    r"|use_associative_scan|num_dense_layers|original_max.*|swiglu.*"
)
"""Keys that leave attention as it is, unless they speak of it."""

HARMLESS_BY_NAME = re.compile(
    r"attention_dropout|attn_pdrop|attention_probs_dropout_prob|attention_(in_|out_)?bias|qkv_bias|use_qkv_bias|no_bias"
    r"|_?attn_implementation\w*|attn_impl|_flash_attn.*|use_flash_attn.*|attn_config\.(attn_impl|attn_pdrop|softmax_scale"
    r"|attn_uses_sequence_id|attn_type|model_type|rope_theta|rope_impl|rope_dail_config|rope_hf_config|fused_qkv)"
    r"|.*rope_theta|rope_(theta|scaling|parameters|ratio|interleaved?|local_base_freq|percentage)|original_rope"
    r"|rotary_(emb_base|base)|use_rotary.*|rope_scaling_factor|rope_type|rope_mode|layer_rope_theta|mrope.*|use_mrope"
    r"|scale_attn_weights|scale_attn_by_inverse_layer_idx|reorder_and_upcast_attn|.*attention_softmax_in_fp32"
    r"|attention_(in_|out_)?multiplier|attn_(scale|temperature_tuning)|attention_value_scale|query_pre_attn_scalar"
    r"|key_multiplier|lm_head_.*|.*_lm_head|softmax_in_fp32|apply_query_key_layer_scaling|masked_softmax_fusion"
    r"|chunk_size_feed_forward|chunk_size|mamba_(.*head.*|n_groups|ngroups|chunk_size|norm_before_gate)|n_mamba_heads"
    r"|linear_.*|lightning_.*|gdn_.*|kda_.*|linear_attn_config\..*|short_conv_kernel_size|use_conv_bias|parallel_attn"
    r"|num_ln_in_parallel_attn|num_nextn_predict_layers|num_mtp_layers|mtp_.*|expert_layer_(period|offset)"
    r"|.*(expert|moe).*|n_(routed|shared)_experts|n_groups?|topk_group|n_limited_groups|norm_topk_prob|mlp_layer_types"
    r"|activation_sparsity_pattern|hidden_activation|global_rope_theta|local_rope_theta|swa_rope_theta|cache_implementation"
    r"|is_decoder|use_cache.*|use_logn_attn|logn_.*|use_dynamic_ntk|interleave_moe_.*|decoder_sparse_step|use_shared.*mlp"
    r"|shared_.*intermediate.*|.*_token_id|.*_token_index|num_logits_to_keep|vocab.*|pruned_heads|key_norm_eps"
    r"|(full|linear)_attn_(alpha|beta)_factor|block_group_size|tie_.*|laurel_rank|mamba_dt_rank|dt_rank|time_step_rank"
    r"|prefix_lm_.*|group_norm.*|.*group_norm_size|use_grouped_mm|ssm_.*|padded_vocab_size|window_layers|vision.*|image.*"
    r"|video.*|audio.*|floor_scale|deepspeed.*|sparse_(step|layers)|share_.*embedd.*|block_size|use_mem_eff_path|hash.*|tensor_.*"
)
"""Keys that speak of attention and leave its shapes and work as they are."""

NOTED: Mapping[str, re.Pattern[str]] = {
    "every query attends to all keys, the sparse selection of keys left out": re.compile(
        r"index_topk|index_(n_heads|head_dim|topk_.*)|indexer_.*|(use_)?(dsa|nsa|moba|msa)(_.*)?|sparse_attention.*"
        r"|sparse_config|use_sparse.*|keep_window_size|sparse_topk_.*|sparse_block_.*|(use_)?dynamic_mask.*"
    ),
    "every query attends to all keys, block-sparse attention left out": re.compile(
        r"blocksparse_.*|dense_attention_every_n_layers|block_sparse.*"
    ),
    "soft capping of scores left out": re.compile(r"attn_logit_soft_?cap.*|attention_logit_cap.*"),
    "norms of queries and keys left out": re.compile(
        r"(use_|attention_|attn_)?qk_(layer_?)?norms?|qk_layer_norms.*|use_query_key_norm|attn_config\.qk_(ln|gn)"
    ),
    "attention sinks left out": re.compile(r"add_\w*sink_bias|(use_)?attention_sinks?|num_sink_tokens|sink_\w+"),
    "ALiBi left out": re.compile(r"(use_)?alibi|attn_config\.alibi|attn_config\.alibi_bias_max"),
    "layers that use the keys and values of another layer are counted with their own": re.compile(
        r"num_kv_shared_layers|use_cla|cla_share_factor|kv_share\w*|cross_layer_\w+"
    ),
    "full-attention layers use their keys as values too, which are counted as others": re.compile(r"attention_k_eq_v"),
    "clipping of queries, keys and values left out": re.compile(r"clip_qkv|attn_config\.clip_qkv"),
    "the gate of each head left out": re.compile(r"use_head_?wise_attn_gate|head_?wise_attn_output_gate|gating"),
    "the rotary part of keys and queries is rotated, though the model rotates nothing": re.compile(r"mla_use_nope"),
    "prefixes without a causal mask left out": re.compile(r"prefix_lm|attn_config\.prefix_lm"),
}
"""It is what is left out, by the keys that ask for it."""

REFUSED: Mapping[str, re.Pattern[str]] = {
    "it is the key of an encoder-decoder model, whose cross-attention this package does not model": re.compile(
        r"is_encoder_decoder|add_cross_attention"
    ),
    "it changes the shape of the output projection, which this package does not model": re.compile(r"o_lora_rank"),
    "it looks like latent attention under another name: give q_lora_rank, kv_lora_rank, qk_nope_head_dim, "
    "qk_rope_head_dim and v_head_dim": re.compile(
        r"use_mla|mla_\w*(rank|dim)|\w*(kv|key_value)\w*_(lora|latent|compress|low_?rank)\w*|latent_(dim|size|rank)"
        r"|\w*(lora|latent|compress)\w*_kv\w*|attention_latent\w*"
    ),
}
"""It is what is refused unless the reader has taken its size from the key, by the reason."""


def active(value: object) -> bool:
    """Whether a key asks for anything: not if it is null, false, zero, empty, or a mapping that switches itself off."""
    if not isinstance(value, dict):
        return bool(value)
    items = cast(dict[str, object], value)
    switches = [item for key, item in items.items() if str(key).startswith("use_")]
    return len(items) > 0 and (not switches or any(switches))


def harmless(key: str) -> bool:
    """Whether a key leaves attention as it is."""
    if SPEAKS_OF_ATTENTION.search(key):
        return HARMLESS_BY_NAME.fullmatch(key) is not None
    return HARMLESS.fullmatch(key) is not None or HARMLESS_BY_NAME.fullmatch(key) is not None
