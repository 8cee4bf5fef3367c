"""Where the guidance comes from: links, and what they are called."""

DOCS = "https://github.com/KohakuBlueleaf/LyCORIS/blob/main/docs"
ALGO_LIST, GUIDELINES = f"{DOCS}/Algo-List.md", f"{DOCS}/Guidelines.md"
KOHYA = "https://github.com/kohya-ss/sd-scripts/blob/main/docs/train_network.md"
PEFT = "https://github.com/huggingface/peft/tree/main/method_comparison/image-gen"
DREAMBOOTH = "https://huggingface.co/blog/dreambooth"
PAPER = "https://arxiv.org/abs/"
SOURCE_NAMES = {
    ALGO_LIST: "LyCORIS, Algo-List", GUIDELINES: "LyCORIS, Guidelines", KOHYA: "sd-scripts, train_network",
    PEFT: "PEFT, method comparison", DREAMBOOTH: "diffusers, DreamBooth",
}  # fmt: skip


def source_name(link: str) -> str:
    """Return what a source is called."""
    return SOURCE_NAMES.get(link, f"arXiv {link.rpartition('/')[2]}" if "arxiv.org" in link else link)
