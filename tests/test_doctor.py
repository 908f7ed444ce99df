from pathlib import Path

import pytest

from raystill import doctor, planning


@pytest.mark.parametrize(("targets", "says"), [("[q_proj]", None), ("[qkv_proj]", "no linear layer qkv_proj")])
def test_lora_targets_are_held_against_the_students_layers(
    tmp_path: Path, tiny_model: Path, targets: str, says: str | None
) -> None:
    (tmp_path / "rows.jsonl").write_text('{"prompt": "Hello", "reference": "Hi"}\n')
    path = tmp_path / "recipe.yaml"
    path.write_text(
        f"name: small\ntask: conversation\nroot: {tmp_path / 'runs'}\nteacher: {{kind: reference}}\n"
        f"data: {{train: {tmp_path / 'rows.jsonl'}, reference: reference}}\n"
        f"student: {{model: {tiny_model}}}\ntrain: {{lora: {{targets: {targets}}}}}\n"
        "evaluate: {max_tokens: 64}\n"
    )
    made = planning.plan(str(path))
    assert not made.problems
    (found,) = [f for f in doctor.examine(made) if "LoRA" in f.what]
    assert (found.problem is None) if says is None else (says in (found.problem or ""))
