"""The command lines in blocks of Markdown."""

import re
import shlex


def blocks(text: str, language: str) -> list[str]:
    """Return the content of each block of a language, such as ``bash``; a pattern is fine, too."""
    return re.findall(rf"```(?:{language})\n(.*?)```", text, flags=re.S)


def command_lines(text: str) -> list[list[str]]:
    """Return the words from ``rcnn`` on of each line that runs it, also by torchrun or Slurm; each line once."""
    found = {}
    for line in "\n".join(blocks(text, "bash|console")).replace("\\\n", " ").splitlines():
        line = line.removeprefix("$ ")
        line = re.sub(r"^(?:torchrun|python3?)\b.* -m detection ", "rcnn ", line)
        line = re.sub(r"^sbatch tools/slurm/train\.sbatch ", "rcnn train ", line)
        if line.startswith("rcnn "):
            found[line] = shlex.split(line, comments=True)
    return list(found.values())
