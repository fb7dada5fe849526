"""Hyperparameters of the papers and of public code, as literal values: by recipe its steps and kinds, by quantizer its
options. Sources: docs/methods/ and the headers in conf/method/."""

from __future__ import annotations

from typing import Any

Values = dict[str, Any]
STREAMED: Values = {"do": "calibrate", "sites": "activations", "input": "fp", "images": None}
IN_NETWORK: Values = STREAMED | {"input": "quantized"}
WEIGHTS: Values = {"do": "calibrate", "sites": "weights"}
FOLD: Values = {"do": "reparameterize", "zero_point": "integer"}
GRID = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)
# I&S-ViT, section 5.1: Adam 4e-5 with a cosine, batch 64, 1,000 iterations.
IAS: Values = {"do": "reconstruct", "iterations": 1000, "batch_size": 64, "schedule": "cosine", "warmup": 0.0}
# Public BRECQ and QDrop code: 20,000 iterations, batch 32, rounding 1e-3 weighed 0.01 (β: test_schedule.py).
ROUND: Values = {
    "do": "reconstruct",
    "iterations": 20000,
    "batch_size": 32,
    "lr_rounding": 1e-3,
    "rounding_weight": 0.01,
}
SQ_B: Values = {"do": "equalize", "rule": "sq_b", "strength": "search", "candidates": GRID, "shift": True, "bare": ()}
GREEDY: Values = {"do": "allocate", "policy": "greedy", "widths": (3, 4, 5, 6, 7, 8), "recompute": "never"}
REPQ = {"activations": IN_NETWORK, "reparameterize": FOLD, "weights": WEIGHTS}
MPTQ = {"sq_b": SQ_B, "activations": STREAMED, "weights": WEIGHTS}
PLAIN = {"activations": STREAMED, "weights": WEIGHTS}
OUTPUT: Values = {
    "do": "output_search",
    "images": 8,
    "rounds": 4,
    "zero_code": "keep",
    "gelu_codes": "keep",
    "class_share": None,
} | {"kinds": ("post_norm", "value", "probs", "query", "key", "attn_out", "post_gelu")}
ROLS: dict[str, Values] = {
    "rotate": {"do": "rotate", "seed": 0} | dict.fromkeys(("stream", "heads_qk", "heads_vo"), "where_exact"),
    "centre": {"do": "centre", "keys": True, "values": True, "least_bits": 6, "images": None},
    "ranges": STREAMED,
    "reparameterize": FOLD,
    "search": OUTPUT | {"rounds": 2, "gelu_codes": "search", "class_share": 0.1, "class_share_bits": 6},
    "weights": {"do": "least_squares", "regress": True, "ranges": 8, "sweeps": 3, "penalty": 1000.0},
}

# Public code since AdaLog: QDrop's frame, ranges of the folded norms searched again.
FRAME: Values = ROUND | {
    "quantize": ("weights", "activations"),
    "learn": ("rounding", "activation_scales"),
    "lr_scales": 4e-5,
    "schedule": "cosine",
    "annealing": "linear",
}
DROPPED: Values = FRAME | {"input": "qdrop", "drop": 0.5, "drop_at": "everywhere", "relative": False}
AGAIN: Values = STREAMED | {"kinds": ("post_norm",)}
RELU: Values = {"do": "relu_mlp", "iterations": 20000, "batch_size": 32, "lr": 4e-5, "clamped": 2.0}

# Method → its steps in order → values of theirs.
STEPS: dict[str, dict[str, Values]] = {
    "fp32": {},
    "minmax": PLAIN,
    "percentile": PLAIN,
    "mse": PLAIN,
    "repq_vit": REPQ,
    "adalog": REPQ,
    "integer": REPQ,
    "fq_vit": PLAIN,
    "gptq": REPQ | {"gptq": {"do": "gptq", "damping": 0.01, "act_order": False}},
    "ias_vit": {
        "ranges": STREAMED | {"images": 64},
        "stage1": IAS
        | {"lr": 4e-5, "quantize": ("activations",), "learn": ("weights", "bias"), "input": "fp", "loss": "mse"},
        "stage2": FOLD,
        "weights": WEIGHTS,
        "stage3": IAS
        | {
            "lr": 4e-5,
            "quantize": ("activations", "weights"),
            "learn": ("weights", "bias"),
            "input": "quantized",
            "loss": "mse",
        },
    },
    "erq": REPQ
    | {
        # λ of public code: 0.1 · 10,000, and 0.1 for the head; at most 100 flips.
        "erq": {"do": "erq", "penalty": 1000.0, "penalty_head": 0.1, "flips": 100, "dual": 0.05, "choose": "decrease"}
        | {"aqer": True, "wqer": True, "refine": True, "ridge": True, "reference": "quantized", "bias": True}
        | {"patch": True}
    },
    "rols": ROLS,
    "rols_distill": ROLS
    | {
        "ranges": STREAMED | {"images": 32},
        "weights": ROLS["weights"] | {"images": 32},
        "distill": {"do": "distill", "lr": 1e-5, "lr_bias": 3e-4, "lr_scales": 3e-3, "features": 1.0, "logits": 1.0}
        | {"learn": ("weights", "bias", "activation_scales", "weight_scales"), "views": "fixed", "hold_out": 0.25},
    },
    "adaround": {
        "weights": WEIGHTS,
        "rounding": ROUND
        | {
            "quantize": ("weights",),
            "learn": ("rounding",),
            "input": "quantized",
            "loss": "mse",
            "annealing": "cosine",
        },
        "activations": IN_NETWORK,
    },
    "brecq": {
        "weights": WEIGHTS,
        "rounding": ROUND
        | {"quantize": ("weights",), "learn": ("rounding",), "input": "quantized"}
        | {"loss": "fisher_diag", "annealing": "linear"},
        "activations": IN_NETWORK,
        "scales": {"do": "reconstruct", "iterations": 5000, "batch_size": 32, "lr_scales": 4e-4, "schedule": "cosine"}
        | {"quantize": ("weights", "activations"), "learn": ("activation_scales",)}
        | {"input": "quantized", "loss": "fisher_diag"},
    },
    "qdrop": {
        "weights": WEIGHTS,
        "activations": IN_NETWORK,
        "learn": ROUND
        | {"quantize": ("weights", "activations"), "learn": ("rounding", "activation_scales"), "loss": "mse"}
        | {"lr_scales": 4e-5, "schedule": "cosine", "annealing": "linear"}
        | {"input": "qdrop", "drop": 0.5, "drop_at": "everywhere"},
    },
    "fima_q": {
        "activations": STREAMED,
        "reparameterize": FOLD | {"granularity": "token"},
        "tokens": AGAIN,
        "weights": WEIGHTS,
        "search": OUTPUT,
        "learn": DROPPED | {"loss": "dplr", "loss_options": {"rank": 15, "temperature": 20}},
    },
    "aphq_vit": {
        "mlp": RELU
        | {"percentile": 0.98, "weighted": True, "temperature": 20.0}
        | {"direction": "signs", "epsilon": None},
        "activations": STREAMED,
        "reparameterize": FOLD | {"granularity": "tensor"},
        "again": AGAIN,
        "weights": WEIGHTS,
        "search": OUTPUT,
        "learn": DROPPED | {"loss": "perturbation_hessian", "loss_options": {"temperature": 20}},
    },
    "ls_vit": {
        "activations": STREAMED,
        "reparameterize": FOLD | {"granularity": "tensor"},
        "again": AGAIN,
        "weights": WEIGHTS,
        "search": OUTPUT,
        "learn": DROPPED | {"loss": "least_squares_hessian", "loss_options": {"temperature": 20}},
    },
    "glf_q": {
        "rotate": ROLS["rotate"],
        "mlp": RELU | {"percentile": 0.99, "weighted": False},
        "activations": STREAMED,
        "weights": WEIGHTS,
        "learn": {"do": "reconstruct", "iterations": 3000, "batch_size": 32, "lr": 2e-5, "lr_scales": 2e-4}
        | {"quantize": ("weights", "activations"), "learn": ("weights", "activation_scales"), "input": "quantized"}
        | {"schedule": "cosine", "loss": "global_local", "loss_options": {"local": 2}},
    },
    # Public code's loss is a tenth of ours beside a regularizer of 0.01.
    "adalog_reconstruct": REPQ
    | {"learn": FRAME | {"input": "fp", "loss": "mse", "relative": True, "rounding_weight": 0.1}},
    "aocq": {
        "operator": {"do": "equalize", "rule": "aocq", "strength": "search", "candidates": GRID, "shift": True}
        | {"power_of_two": False, "norms": True, "bare": ("attn_out", "post_gelu")},
        "activations": STREAMED,
        "framework": IAS
        | {
            "lr_scales": 4e-5,
            "quantize": ("activations",),
            "learn": ("activation_scales",),
            "input": "fp",
            "loss": "mse",
        },
        "weights": WEIGHTS,
        "loss": IAS
        | {"lr": 4e-5, "quantize": ("activations", "weights"), "learn": ("weights", "bias"), "input": "quantized"}
        | {"loss": "token_channel", "weigh_by": "targets"},
    },
    "mptq_vit": MPTQ,
    "mptq_vit_full": MPTQ,
    "mptq_vit_mixed": MPTQ | {"allocate": GREEDY | {"images": 32}},
    "mptq_vit_full_mixed": MPTQ | {"allocate": GREEDY | {"images": 32}},
    "mixed_precision": REPQ | {"allocate": GREEDY | {"images": 16}},
    "ptq4vit": PLAIN
    | {
        "search": {"do": "hessian_search", "rounds": 3, "candidates": 100, "coarse": 20}
        | {"alpha": 0.01, "beta": 1.2, "images": 32}
    },
    "scale_predictor": REPQ
    | {
        "predict": {"do": "predict_scales", "ranges": "predicted", "tap": "block", "feature": "range", "chunks": 8}
        | {"degree": 1, "constant": False, "clamp": (0.5, 2.0), "zero_points": "keep", "fit": "closed", "ridge": 0.1}
    },
}

# Quantizer, granularity, range, then what is not a default.
CHANNEL_MSE = "uniform channel mse"
TENSOR_MSE = "uniform tensor mse"
HEAD_MSE = "uniform head mse"
NINE = [0.97, 0.98, 0.99, 0.995, 0.9995, 0.9997, 0.9999, 0.99995, 0.99999]
REPQ_KINDS: dict[str, str] = {
    "weight": "uniform channel percentile",
    "post_norm": "uniform channel percentile include_zero=False",
    "probs": "log_sqrt2 tensor percentile zero_code=True",
    "default": "uniform tensor percentile",
}
MPTQ_KINDS: dict[str, str] = {
    "weight": f"{CHANNEL_MSE} symmetric",
    "post_gelu": "twin_uniform tensor mse m=search",
    "probs": "twin_softmax tensor mse m=search",
    "default": f"{TENSOR_MSE} symmetric",
}
FULL_KINDS = {"norm_input": f"{CHANNEL_MSE} symmetric", "scores": f"{TENSOR_MSE} symmetric"}
LEARNED_KINDS = {"weight": CHANNEL_MSE, "default": "uniform tensor percentile"}
ROLS_KINDS = {"weight": CHANNEL_MSE, "post_norm": f"{CHANNEL_MSE} include_zero=False", "default": TENSOR_MSE} | {
    "probs": "adalog tensor mse zero_code=False"
}
HEADED_KINDS = {"weight": CHANNEL_MSE, "post_norm": f"{CHANNEL_MSE} include_zero=False", "default": TENSOR_MSE} | (
    dict.fromkeys(("query", "key", "value", "probs"), HEAD_MSE)
)
KINDS: dict[str, dict[str, str]] = {
    "fp32": {},
    "minmax": {"weight": "uniform channel minmax", "default": "uniform tensor minmax"},
    "percentile": {"weight": "uniform channel percentile", "default": "uniform tensor percentile"},
    "mse": {"weight": CHANNEL_MSE, "default": TENSOR_MSE},
    **dict.fromkeys(("repq_vit", "gptq", "mixed_precision", "scale_predictor"), REPQ_KINDS),
    "erq": REPQ_KINDS | {"weight": CHANNEL_MSE},
    **dict.fromkeys(("rols", "rols_distill"), ROLS_KINDS),
    "aocq": LEARNED_KINDS | {"probs": REPQ_KINDS["probs"]},
    **dict.fromkeys(("adaround", "brecq", "qdrop"), LEARNED_KINDS),
    "ias_vit": REPQ_KINDS | {"weight": f"uniform channel percentile percentiles={NINE}", "probs": "sulq tensor minmax"},
    "adalog": {"weight": CHANNEL_MSE, "query": HEAD_MSE, "key": HEAD_MSE, "value": HEAD_MSE, "default": TENSOR_MSE}
    | {"post_norm": f"{CHANNEL_MSE} include_zero=False shrink_to=near"}
    | {"probs": "adalog head mse zero_code=True", "post_gelu": "adalog tensor mse shift=0.17"},
    "adalog_reconstruct": {"weight": CHANNEL_MSE, "default": TENSOR_MSE}
    | dict.fromkeys(("query", "key", "value"), HEAD_MSE)
    | {"post_norm": f"{CHANNEL_MSE} include_zero=False shrink_to=near"}
    | {"probs": "adalog head mse zero_code=True", "post_gelu": "adalog tensor mse shift=0.17"},
    **dict.fromkeys(("aphq_vit", "ls_vit"), HEADED_KINDS),
    "glf_q": {"weight": CHANNEL_MSE, "default": TENSOR_MSE},
    "fima_q": HEADED_KINDS
    | dict.fromkeys(("attn_out", "post_gelu"), "uniform token mse")
    | dict.fromkeys(("query", "key", "probs"), "uniform head_token mse")
    | {"value": "uniform head_channel mse"},
    "integer": REPQ_KINDS
    | {"weight": "uniform channel percentile symmetric", "probs": TENSOR_MSE, "post_gelu": TENSOR_MSE}
    | dict.fromkeys(("query", "key", "value"), f"{TENSOR_MSE} symmetric"),
    "fq_vit": {"weight": "uniform channel minmax", "probs": "log2 tensor minmax", "default": "uniform tensor minmax"}
    | {"norm_input": "ptf channel minmax K=3", "scores": "int_scores tensor minmax"},
    "ptq4vit": {kind: row.replace(" mse", " minmax") for kind, row in MPTQ_KINDS.items()},
    **dict.fromkeys(("mptq_vit", "mptq_vit_mixed"), MPTQ_KINDS),
    **dict.fromkeys(("mptq_vit_full", "mptq_vit_full_mixed"), MPTQ_KINDS | FULL_KINDS),
}

# Options of quantizers that no recipe names: AdaLog's r and progressive search, PTQ4ViT's range of m, and so on.
DEFAULTS: dict[str, Values] = {
    "uniform": {"percentiles": (0.999, 0.9999, 0.99999), "candidates": 100, "include_zero": True, "shrink_to": "zero"},
    "log_sqrt2": {"percentiles": (0.999, 0.9999, 0.99999), "zero_code": False, "levels": "strict"},
    "sulq": {"etas": (0.001, 0.005, 0.01, 0.02, 0.03, 0.04, 0.05, 0.1, 0.2, 0.5, 1.0), "levels": "strict"},
    "adalog": {"resolution": 37, "search_steps": 6, "keep": 14, "tables": "integer", "shift": 0.0},
    "twin_uniform": {"max_m": 15, "candidates": 100},
    "twin_softmax": {"max_m": 15, "candidates": 100},
    "dual_uniform": {"share": 0.05},
}
