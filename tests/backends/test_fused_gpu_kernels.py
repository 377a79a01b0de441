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
    **dict.fromkeys(["source", "row_ptr", "target", "out_ptr"], "id"),
    **dict.fromkeys(["table", "codes", "level_ptr", "fours"], "i32"),
}
FORWARD = {"forward_level", "forward_fours", "forward_walk", "activate_level"}
BACKWARD = {"backward_level", "backward_walk"}


@pytest.mark.skipif(os.environ.get("TRITON_INTERPRET") == "1", reason="nothing is compiled")
@pytest.mark.parametrize(
    ("name", "value", "total", "activations", "ids"),
    [
        *((name, "fp32", "fp32", len(NAMES), "i32") for name in sorted(FORWARD | BACKWARD)),
        ("forward_level", "fp64", "fp64", 5, "i32"),
        ("backward_level", "fp64", "fp64", 5, "i32"),
        ("backward_level", "bf16", "fp32", 5, "i32"),
        # As many edges as 32 bits do not count.
        ("forward_level", "fp32", "fp32", 2, "i64"),
        ("backward_level", "fp32", "fp32", 2, "i64"),
    ],
)
def test_compiles_for_hopper(name, value, total, activations, ids):
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
    pointees = {"value": value, "sum": total, "id": ids, "i32": "i32"}
    signature = {
        argument: "constexpr"
        if argument in constants
        else f"*{pointees[POINTERS[argument]]}"
        if argument in POINTERS
        else "i32"
        for argument in kernel.arg_names
    }
    aligned = {
        (place,): [["tt.divisibility", 16]]
        for place, argument in enumerate(kernel.arg_names)
        if argument in POINTERS or argument in ("stride", "span")
    }
    compiled = triton.compile(
        ASTSource(kernel, signature, constexprs=constants, attrs=aligned),
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
    # A thread gathers sixteen bytes at a time.
    if value == "fp32":
        assert "ld.global.v4.b32" in code
    elif value == "fp64":
        assert "ld.global.v2.b64" in code
