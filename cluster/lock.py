"""A lock with hashes for an image, from pip's own resolution, in the Python and on the kind of machine that the image has:

    pip install --dry-run --ignore-installed --report report.json '.[gpu,tensorboard,mlflow]'
    python cluster/lock.py report.json > cluster/gpu.txt
    pip install --dry-run --ignore-installed --report report.json --extra-index-url https://download.pytorch.org/whl/cpu \\
        '.[tensorboard,mlflow]' torch==2.13.0+cpu
    python cluster/lock.py report.json > cluster/cpu.txt

One hash per package: of the very file that pip would install.
"""

import json
import sys
from pathlib import Path

report = json.loads(Path(sys.argv[1]).read_text())
locked = {
    item["metadata"]["name"].lower().replace("_", "-"): (
        item["metadata"]["version"],
        item["download_info"]["archive_info"]["hashes"]["sha256"],
    )
    for item in report["install"]
    if "archive_info" in item["download_info"]  # raystill itself is a folder
}
sys.stdout.write("# Exact versions and hashes for Python 3.11 on Linux x86_64, made by cluster/lock.py.\n")
for name, (version, digest) in sorted(locked.items()):
    sys.stdout.write(f"{name}=={version} --hash=sha256:{digest}\n")
