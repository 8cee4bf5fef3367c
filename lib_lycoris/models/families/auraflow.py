"""AuraFlow and Pony v7: 4 double and 32 single layers, 3072 wide.

Layers checked against diffusers' AuraFlowTransformer2DModel; the original names are those that kohya's and ComfyUI's files use. The order
of modF's halves (swapped in diffusers) is read from diffusers' conversion and not verified with a released file. Its text encoder is not
declared.
"""

from ..family import Blocks, Family, transformer
from ..rows import Rows, linear

D = "double_layers.#"
S = "single_layers.#"
J = "joint_transformer_blocks.#"
U = "single_transformer_blocks.#"


def layers(d: int = 3072, f: int = 8192, double: int = 4, single: int = 32) -> Rows:
    """Yield the layers; d: width, f: width of the feed-forward."""
    yield linear("init_x_linear", d, 16, "pos_embed.proj")
    yield linear("cond_seq_linear", d, 2048, "context_embedder", bias=False)
    yield linear("t_embedder.mlp.0", d, 256, "time_step_proj.linear_1")
    yield linear("t_embedder.mlp.2", d, d, "time_step_proj.linear_2")
    yield linear(f"{D}.modX.1", 6 * d, d, f"{J}.norm1.linear", bias=False, times=double)
    yield linear(f"{D}.modC.1", 6 * d, d, f"{J}.norm1_context.linear", bias=False, times=double)
    yield linear(f"{D}.attn.w2q", d, d, f"{J}.attn.to_q", bias=False, times=double)
    yield linear(f"{D}.attn.w2k", d, d, f"{J}.attn.to_k", bias=False, times=double)
    yield linear(f"{D}.attn.w2v", d, d, f"{J}.attn.to_v", bias=False, times=double)
    yield linear(f"{D}.attn.w1k", d, d, f"{J}.attn.add_k_proj", bias=False, times=double)
    yield linear(f"{D}.attn.w1v", d, d, f"{J}.attn.add_v_proj", bias=False, times=double)
    yield linear(f"{D}.attn.w1q", d, d, f"{J}.attn.add_q_proj", bias=False, times=double)
    yield linear(f"{D}.attn.w2o", d, d, f"{J}.attn.to_out.0", bias=False, times=double)
    yield linear(f"{D}.attn.w1o", d, d, f"{J}.attn.to_add_out", bias=False, times=double)
    yield linear(f"{D}.mlpX.c_fc1", f, d, f"{J}.ff.linear_1", bias=False, times=double)
    yield linear(f"{D}.mlpX.c_fc2", f, d, f"{J}.ff.linear_2", bias=False, times=double)
    yield linear(f"{D}.mlpX.c_proj", d, f, f"{J}.ff.out_projection", bias=False, times=double)
    yield linear(f"{D}.mlpC.c_fc1", f, d, f"{J}.ff_context.linear_1", bias=False, times=double)
    yield linear(f"{D}.mlpC.c_fc2", f, d, f"{J}.ff_context.linear_2", bias=False, times=double)
    yield linear(f"{D}.mlpC.c_proj", d, f, f"{J}.ff_context.out_projection", bias=False, times=double)
    yield linear(f"{S}.modCX.1", 6 * d, d, f"{U}.norm1.linear", bias=False, times=single)
    yield linear(f"{S}.attn.w1q", d, d, f"{U}.attn.to_q", bias=False, times=single)
    yield linear(f"{S}.attn.w1k", d, d, f"{U}.attn.to_k", bias=False, times=single)
    yield linear(f"{S}.attn.w1v", d, d, f"{U}.attn.to_v", bias=False, times=single)
    yield linear(f"{S}.attn.w1o", d, d, f"{U}.attn.to_out.0", bias=False, times=single)
    yield linear(f"{S}.mlp.c_fc1", f, d, f"{U}.ff.linear_1", bias=False, times=single)
    yield linear(f"{S}.mlp.c_fc2", f, d, f"{U}.ff.linear_2", bias=False, times=single)
    yield linear(f"{S}.mlp.c_proj", d, f, f"{U}.ff.out_projection", bias=False, times=single)
    yield linear("modF.1", 2 * d, d, {"norm_out.linear": "swap"}, bias=False)
    yield linear("final_linear", 16, d, "proj_out", bias=False)


FAMILY = Family(
    id="auraflow",
    label="AuraFlow",
    short="AuraFlow",
    components=(transformer(layers),),
    blocks=Blocks({"double_layers": "D", "single_layers": "S"}, last=("final_linear", "modF")),
    spellings=(
        "auraflow",
        "ponyv7",
    ),
    written={"modelspec.architecture": "auraflow"},
)
