"""A quantised GGUF file as one in F16, which OpenVINO serves as it is.

OpenVINO does not read Q4_1 exactly: its answers differ from those of transformers on the same file, and loop more. With
the same weights dequantised to F16, greedy answers are the same token by token, at the same speed.
"""

from __future__ import annotations

from pathlib import Path

import gguf
import numpy as np

UNQUANTISED = {gguf.GGMLQuantizationType.F32, gguf.GGMLQuantizationType.F16, gguf.GGMLQuantizationType.BF16}


def in_f16(source: Path, folder: Path) -> Path:
    """`source` itself if no tensor of it is quantised, else a copy in `folder` with matrices in F16 (2 s for 135M)."""
    reader = gguf.GGUFReader(source)
    if all(tensor.tensor_type in UNQUANTISED for tensor in reader.tensors):
        return source
    target = folder / source.name
    architecture = reader.fields["general.architecture"].contents()
    writer = gguf.GGUFWriter(target, architecture)
    for name, field in reader.fields.items():
        if name == "general.file_type":
            writer.add_file_type(gguf.LlamaFileType.MOSTLY_F16)
        elif not name.startswith("GGUF.") and name not in ("general.architecture", "general.quantization_version"):
            kind = field.types[0]
            element = field.types[-1] if kind is gguf.GGUFValueType.ARRAY else None
            writer.add_key_value(name, field.contents(), kind, sub_type=element)
    for tensor in reader.tensors:
        weights = gguf.quants.dequantize(tensor.data, tensor.tensor_type)
        writer.add_tensor(tensor.name, weights.astype(np.float32 if weights.ndim == 1 else np.float16))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return target
