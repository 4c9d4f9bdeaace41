"""The text form of a program, for people."""

from __future__ import annotations

from tercet.program.program import Program


def format_program(program: Program) -> str:
    """Return ``program`` as text: one line an input, one an instruction, then the outputs."""
    lines = [f"program f{program.scale} {program.protocol} {program.digest()[:16]}"]
    for number, value in enumerate(program.inputs):
        lines.append(f"  %{number} = {value.role} {value.name!r} : {value.type}")
    for number, instruction in enumerate(program.instructions, len(program.inputs)):
        args = ", ".join(f"%{a}" for a in instruction.args)
        attrs = ", ".join(f"{k}={_format(v)}" for k, v in sorted(instruction.attrs.items()))
        comment = f"  # {instruction.source}" if instruction.source else ""
        body = ", ".join(part for part in (args, attrs) if part)
        lines.append(f"  %{number} = {instruction.op}({body}) : {instruction.type}{comment}")
    lines.append("  return " + ", ".join(f"%{o}" for o in program.outputs))
    return "\n".join(lines)


def _format(attribute: int | tuple[int, ...]) -> str:
    if isinstance(attribute, int):
        return str(attribute)
    return "[" + " ".join(map(str, attribute)) + "]"
