"""The kernels compile for a GPU, though there is none: the interpreter takes more than that."""

import os

import pytest

from graphnn.activation import built_in

triton = pytest.importorskip("triton")

NAMES = built_in()

# What each argument points to; the others are integers. "value" and "sum" are filled in.
POINTERS = {
    **dict.fromkeys(["values", "pres", "shift", "weight", "gradient", "by_pre"], "value"),
    **dict.fromkeys(["bias", "parameters", "by_weight"], "sum"),
    **dict.fromkeys(["source", "row_ptr", "target", "out_ptr"], "i32"),
    **dict.fromkeys(["table", "codes", "level_ptr"], "i32"),
}
FORWARD = {"forward_level", "forward_walk", "activate_level"}
BACKWARD = {"backward_level", "backward_walk"}


@pytest.mark.skipif(os.environ.get("TRITON_INTERPRET") == "1", reason="nothing is compiled")
@pytest.mark.parametrize(
    ("name", "value", "total", "activations"),
    [
        *((name, "fp32", "fp32", len(NAMES)) for name in sorted(FORWARD | BACKWARD)),
        ("forward_level", "fp64", "fp64", 5),
        ("backward_level", "fp64", "fp64", 5),
        ("backward_level", "bf16", "fp32", 5),
    ],
)
def test_compiles_for_hopper(name, value, total, activations):
    from triton import language as tl
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    from graphnn.backends import fused_gpu_kernels

    constants = {
        "ROWS": 16, "COLS": 64, "INDEX": tl.int64, "USED": (1 << activations) - 1,
        "ACC": tl.float64 if total == "fp64" else tl.float32, "KEEPS_PRE": True,
    }  # fmt: skip
    if name in FORWARD:
        constants |= {"SHIFTED": True}
    else:
        constants |= {"PRE_SEEDED": True, "DOTS": True}
    if name == "backward_level":
        constants |= {"SEEDED": True}
    kernel = getattr(fused_gpu_kernels, name)
    pointees = {"value": value, "sum": total, "i32": "i32"}
    signature = {
        argument: "constexpr"
        if argument in constants
        else f"*{pointees[POINTERS[argument]]}"
        if argument in POINTERS
        else "i32"
        for argument in kernel.arg_names
    }
    compiled = triton.compile(
        ASTSource(kernel, signature, constexprs=constants),
        target=GPUTarget("cuda", 90, 32),
        options={"num_warps": 4, "enable_fp_fusion": True},
    )
    code = compiled.asm["ptx"]
    assert ".atom" not in code
    assert "red.global" not in code
    # Sums are fused multiply-adds of the type that they are made in.
    assert ("fma.rn.f64" if total == "fp64" else "fma.rn.f32") in code
    if name.endswith("walk"):
        assert "bar.sync" in code
