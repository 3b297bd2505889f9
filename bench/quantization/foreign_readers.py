"""Folders in other toolkits' layouts as those toolkits read them, beside what hasten read; and folders that those toolkits make. Prints one line of JSON per folder.

    python -m venv readers
    readers/bin/python -m pip install torch transformers accelerate compressed-tensors bitsandbytes optimum datasets
    readers/bin/python -m pip install --no-build-isolation gptqmodel
    readers/bin/python -m pip install --no-build-isolation --no-deps autoawq

Takes a list of jobs as JSON on stdin, each with the name of a row and a folder. With `ours`, a safetensors file with the values of each linear as hasten reads them (f32) and,
where the model is to be run too, `logits`, whose tokens are `ids`: the folder is read. With `source`, a Hugging Face folder, and `make`: the folder is made of it.
Of autoawq only the linear and its packing are used: as a whole it does not import beside a recent transformers.
"""

import importlib.metadata
import importlib.util
import json
import os
import shutil
import sys
import types

os.environ["TORCHDYNAMO_DISABLE"] = "1"  # Nothing is compiled.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["GPTQMODEL_DISABLE_PACK_EXT"] = "1"  # Nor a C++ compiler.

import torch
from safetensors.torch import load_file, save_file

torch.set_grad_enabled(False)
torch.set_num_threads(1)


def version(package):
    return f"{package} {importlib.metadata.version(package)}"


def parts_of(tensors, suffix):
    """Prefixes `X.` of tensors `X.suffix`."""
    return [name[: -len(suffix)] for name in tensors if name.endswith("." + suffix)]


def bitsandbytes_values(tensors, _config):
    import bitsandbytes.functional as bnb

    for name in list(tensors):
        if ".quant_state.bitsandbytes__" in name:
            weight = name.split(".quant_state.")[0]
            parts = {k[len(weight) + 1 :]: v for k, v in tensors.items() if k.startswith(weight + ".")}
            state = bnb.QuantState.from_dict(parts, device=torch.device("cpu"))
            state.dtype = torch.float32
            yield weight, bnb.dequantize_4bit(tensors[weight], quant_state=state)
    for prefix in parts_of(tensors, "SCB"):
        yield prefix + "weight", bnb.int8_vectorwise_dequant(tensors[prefix + "weight"], tensors[prefix + "SCB"])


def compressed_values(tensors, config):
    from compressed_tensors.compressors import IntQuantizationCompressor, PackedQuantizationCompressor
    from compressed_tensors.quantization import QuantizationScheme

    scheme = QuantizationScheme(**config["config_groups"]["group_0"])
    packed = config["format"] == "pack-quantized"
    compressor = PackedQuantizationCompressor if packed else IntQuantizationCompressor
    for prefix in parts_of(tensors, "weight_scale"):
        parts = {k[len(prefix) :]: v for k, v in tensors.items() if k.startswith(prefix)}
        parts["weight_scale"] = parts["weight_scale"].float()
        yield prefix + "weight", compressor.decompress(parts, scheme)["weight"]


def gptq_values(tensors, config):
    from gptqmodel.nn_modules.qlinear.torch import TorchLinear
    from gptqmodel.utils.model import convert_gptq_v1_to_v2_format_module

    bits = config["bits"]
    for prefix in parts_of(tensors, "qweight"):
        words, rows = tensors[prefix + "qweight"].shape
        layer = TorchLinear(
            bits=bits,
            group_size=config["group_size"],
            sym=config["sym"],
            desc_act=config["desc_act"],
            in_features=words * 32 // bits,
            out_features=rows,
            bias=False,
        )
        for part in ("qweight", "qzeros", "scales", "g_idx"):
            setattr(layer, part, tensors[prefix + part])
        if config["checkpoint_format"] == "gptq":
            convert_gptq_v1_to_v2_format_module(layer, bits, torch.int32)
        layer.post_init()
        layer.scales = layer.scales.float()
        yield prefix + "weight", layer.dequantize_weight().T


def import_awq(name):
    """A module of autoawq without what its packages import by themselves."""
    if "awq" not in sys.modules:
        (root,) = importlib.util.find_spec("awq").submodule_search_locations
        for package in ("awq", "awq.utils", "awq.modules", "awq.modules.linear"):
            sys.modules[package] = types.ModuleType(package)
            sys.modules[package].__path__ = [os.path.join(root, *package.split(".")[1:])]
    return importlib.import_module(name)


def awq_values(tensors, config):
    awq = import_awq("awq.utils.packing_utils")
    for prefix in parts_of(tensors, "qweight"):
        qweight, qzeros, scales = (tensors[prefix + part] for part in ("qweight", "qzeros", "scales"))
        group = qweight.shape[0] // scales.shape[0]
        yield prefix + "weight", awq.dequantize_gemm(qweight, qzeros, scales.float(), config["bits"], group).T


READERS = {
    "bitsandbytes": ("bitsandbytes", bitsandbytes_values),
    "compressed-tensors": ("compressed-tensors", compressed_values),
    "gptq": ("gptqmodel", gptq_values),
    "awq": ("autoawq", awq_values),
}


def logits_of(folder, method, ids):
    """Of the whole model, run by transformers in f32 with whatever it takes for the layout."""
    from transformers import AutoModelForCausalLM, AwqConfig, GPTQConfig

    extra = {}
    if method == "gptq":  # Kernels that need no compiler.
        extra["quantization_config"] = GPTQConfig(bits=4, backend="gptq_torch")
    if method == "awq":
        extra["quantization_config"] = AwqConfig(bits=4, backend="torch_awq")
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, device_map="cpu", **extra)
    return model.eval()(torch.tensor([ids])).logits[0].float()


def check(job):
    folder = job["folder"]
    with open(os.path.join(folder, "config.json")) as file:
        config = json.load(file)["quantization_config"]
    method = config["quant_method"]
    package, values_of = READERS[method]
    ours = load_file(job["ours"])
    row = {"reader": version(package), "tensors": 0, "values": 0, "differing": 0, "largest": 0.0}
    for name, theirs in values_of(load_file(os.path.join(folder, "model.safetensors")), config):
        own = ours.pop(name)
        difference = (theirs.float().reshape(own.shape) - own).abs()
        row["tensors"] += 1
        row["values"] += own.numel()
        row["differing"] += int((difference > 0).sum())
        row["largest"] = max(row["largest"], float(difference.max() / own.abs().max()))
    logits = ours.pop("logits", None)
    if ours:
        raise ValueError(f"not read: {', '.join(ours)}")
    if logits is not None:
        row["runner"] = version("transformers")
        try:
            theirs = logits_of(folder, method, job["ids"])[: logits.shape[0]]
            row["logits"] = float((theirs - logits).abs().max() / logits.abs().max())
            row["sameTop"] = float((theirs.argmax(-1) == logits.argmax(-1)).float().mean())
        except Exception as error:
            row["notRun"] = said(error)
    return row


def rounded(weight, group, bits):
    """Scales and zero points of groups, asymmetric: f16 [out, groups], i32 [out, groups]."""
    values = weight.reshape(weight.shape[0], -1, group)
    low, high = values.amin(-1).clamp(max=0), values.amax(-1).clamp(min=0)
    scale = ((high - low) / (2**bits - 1)).clamp(min=1e-5).half()
    zero = (-low / scale.float()).round().clamp(0, 2**bits - 1).int()
    return scale, zero


def make_gptq(weight, group, act_order):
    from gptqmodel.nn_modules.qlinear.torch import TorchLinear

    rows, columns = weight.shape
    linear = torch.nn.Linear(columns, rows, bias=False)
    order = torch.randperm(columns) if act_order else torch.arange(columns)
    g_idx = torch.empty(columns, dtype=torch.int32)
    g_idx[order] = torch.arange(columns, dtype=torch.int32) // group
    scale, zero = rounded(weight[:, order], group, 4)
    linear.weight.data = weight
    shape = {"in_features": columns, "out_features": rows, "bias": False}
    layer = TorchLinear(bits=4, group_size=group, sym=False, desc_act=act_order, **shape)
    layer.pack(linear, scale.float(), zero, g_idx)
    return {part: getattr(layer, part) for part in ("qweight", "qzeros", "scales", "g_idx")}


def make_awq(weight, group):
    gemm = import_awq("awq.modules.linear.gemm")
    rows, columns = weight.shape
    linear = torch.nn.Linear(columns, rows, bias=False)
    linear.weight.data = weight
    scale, zero = rounded(weight, group, 4)
    layer = gemm.WQLinear_GEMM.from_linear(linear, 4, group, False, scale.T.float(), zero.T.contiguous())
    return {part: getattr(layer, part) for part in ("qweight", "qzeros", "scales")}


def make_compressed(weight, group, kind):
    from compressed_tensors.compressors import IntQuantizationCompressor, PackedQuantizationCompressor
    from compressed_tensors.quantization import QuantizationScheme
    from compressed_tensors.quantization.utils import calculate_qparams

    scheme = QuantizationScheme(**COMPRESSED[kind]["config_groups"]["group_0"])
    is_packed = COMPRESSED[kind]["format"] == "pack-quantized"
    values = weight.reshape(weight.shape[0], -1, group if is_packed else weight.shape[1])
    scale, zero = calculate_qparams(values.amin(-1), values.amax(-1), scheme.weights)
    parts = {"weight": weight, "weight_scale": scale, "weight_zero_point": zero}
    return (PackedQuantizationCompressor if is_packed else IntQuantizationCompressor).compress(parts, scheme)


GROUP = 64


def compressed_config(form, weights, activations=None):
    group = {"targets": ["Linear"], "weights": weights, "input_activations": activations}
    head = {"quant_method": "compressed-tensors", "format": form, "ignore": ["lm_head"]}
    return {**head, "quantization_status": "compressed", "config_groups": {"group_0": group}}


def int_args(bits, symmetric, strategy, group=None, dynamic=False):
    args = {"num_bits": bits, "type": "int", "symmetric": symmetric, "strategy": strategy}
    return {**args, "group_size": group, "dynamic": dynamic}


COMPRESSED = {
    "compressed-symmetric": compressed_config("pack-quantized", int_args(4, True, "group", GROUP)),
    "compressed-asymmetric": compressed_config("pack-quantized", int_args(4, False, "group", GROUP)),
    "compressed-w8a8": compressed_config(
        "int-quantized", int_args(8, True, "channel"), int_args(8, True, "token", dynamic=True)
    ),
}
GPTQ = {"quant_method": "gptq", "bits": 4, "group_size": GROUP, "sym": False, "checkpoint_format": "gptq_v2"}
AWQ = {"quant_method": "awq", "bits": 4, "group_size": GROUP, "zero_point": True, "version": "gemm"}
MAKERS = {
    "gptq": ({**GPTQ, "desc_act": False}, lambda w: make_gptq(w, GROUP, False)),
    "gptq-act-order": ({**GPTQ, "desc_act": True}, lambda w: make_gptq(w, GROUP, True)),
    "awq": (AWQ, lambda w: make_awq(w, GROUP)),
    **{kind: (COMPRESSED[kind], lambda w, kind=kind: make_compressed(w, GROUP, kind)) for kind in COMPRESSED},
}
BITSANDBYTES = {
    "nf4": {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4"},
    "nf4-double": {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4", "bnb_4bit_use_double_quant": True},
    "fp4": {"load_in_4bit": True, "bnb_4bit_quant_type": "fp4"},
    "int8": {"load_in_8bit": True},
}


def make(job):
    source, folder, kind = job["source"], job["folder"], job["make"]
    if kind in BITSANDBYTES:
        from transformers import AutoModelForCausalLM, BitsAndBytesConfig

        quantization = BitsAndBytesConfig(**BITSANDBYTES[kind])
        model = AutoModelForCausalLM.from_pretrained(source, quantization_config=quantization, device_map="cpu")
        model.save_pretrained(folder)
        return {"maker": version("bitsandbytes")}
    os.makedirs(folder)
    config, quantized = MAKERS[kind]
    tensors = {}
    for name, tensor in load_file(os.path.join(source, "model.safetensors")).items():
        if name.endswith("_proj.weight"):
            prefix = name[: -len("weight")]
            tensors.update({prefix + part: value.contiguous() for part, value in quantized(tensor.float()).items()})
        else:
            tensors[name] = tensor
    save_file(tensors, os.path.join(folder, "model.safetensors"), metadata={"format": "pt"})
    with open(os.path.join(source, "config.json")) as file:
        whole = json.load(file)
    with open(os.path.join(folder, "config.json"), "w") as file:
        json.dump({**whole, "quantization_config": config}, file)
    tokenizer = os.path.join(source, "hasten.json")
    if os.path.exists(tokenizer):
        shutil.copy(tokenizer, folder)
    return {"maker": version(READERS[config["quant_method"]][0])}


def said(error):
    return f"{type(error).__name__}: {error}".splitlines()[0][:200]


for job in json.load(sys.stdin):
    try:
        answer = make(job) if "make" in job else check(job)
    except Exception as error:  # What a toolkit cannot do is a result, too.
        answer = {"failed": said(error)}
    print(json.dumps({"name": job["name"], **answer}), flush=True)
